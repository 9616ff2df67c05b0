"""The table of tiny models: sizes as small as each family's class takes."""

from collections.abc import Mapping
from typing import Any

import torch

from .recipe import LENGTH, Recipe, masked, normal, ones, whole

UNET: Mapping[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False, "use_temporal_attention": False,
    "num_head_channels": 16, "context_dim": 64, "use_linear_in_transformer": True, "adm_in_channels": None,
}  # fmt: skip
SDXL_ADM = {"num_classes": "sequential", "adm_in_channels": 1280 + 6 * 256}
FLUX: Mapping[str, Any] = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 24, "context_in_dim": 64,
    "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
FLUX2: Mapping[str, Any] = {
    **FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0,
    "depth": 1, "axes_dim": [8, 8, 8, 8], "theta": 2000, "patch_size": 1, "qkv_bias": False,
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
    "ref_index_scale": 10.0,
}  # fmt: skip
CHROMA: Mapping[str, Any] = {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "context_in_dim": 64, "hidden_size": 64,
    "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2,
}  # fmt: skip
LUMINA: Mapping[str, Any] = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "n_layers": 2, "n_refiner_layers": 1,
    "n_heads": 8, "n_kv_heads": 4, "axes_dims": [8, 12, 12], "axes_lens": [64, 64, 64], "cap_feat_dim": 64,
    "qk_norm": True, "multiple_of": 32, "rope_theta": 10000.0, "ffn_dim_multiplier": 1.0,
}  # fmt: skip
WAN: Mapping[str, Any] = {
    "image_model": "wan2.1", "model_type": "t2v", "patch_size": (1, 2, 2), "text_len": 32, "in_dim": 16, "dim": 128,
    "ffn_dim": 256, "freq_dim": 32, "text_dim": 64, "out_dim": 16, "num_heads": 2, "num_layers": 2,
    "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
}  # fmt: skip
HUNYUAN: Mapping[str, Any] = {
    "image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "vec_in_dim": 24,
    "axes_dim": [8, 12, 12], "num_heads": 2, "hidden_size": 64, "context_in_dim": 64, "mlp_ratio": 4.0, "depth": 1,
    "depth_single_blocks": 2, "theta": 256, "qkv_bias": True, "byt5": False, "meanflow": False,
    "guidance_embed": True, "use_cond_type_embedding": False, "vision_in_dim": None,
}  # fmt: skip
COSMOS2: Mapping[str, Any] = {
    "image_model": "cosmos_predict2", "max_img_h": 64, "max_img_w": 64, "max_frames": 16, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "concat_padding_mask": True,
    "crossattn_emb_channels": 64, "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop",
    "min_fps": 1, "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 32, "num_blocks": 2, "num_heads": 2,
    "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0, "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
COSMOS1: Mapping[str, Any] = {
    "image_model": "cosmos", "max_img_h": 64, "max_img_w": 64, "max_frames": 16, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True,
    "block_config": "FA-CA-MLP", "model_channels": 64, "num_blocks": 2, "num_heads": 2, "mlp_ratio": 4.0,
    "block_x_format": "THWBD", "crossattn_emb_channels": 64, "use_cross_attn_mask": False, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "affline_emb_norm": True, "use_adaln_lora": True,
    "adaln_lora_dim": 32, "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
KANDINSKY: Mapping[str, Any] = {
    "image_model": "kandinsky5", "model_dim": 64, "ff_dim": 128, "time_dim": 32, "in_text_dim": 64,
    "in_text_dim2": 24, "visual_embed_dim": 132, "patch_size": (1, 2, 2), "num_text_blocks": 1,
    "num_visual_blocks": 2, "axes_dims": (8, 12, 12),
}  # fmt: skip
COG: Mapping[str, Any] = {
    "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 16,
    "out_channels": 16, "time_embed_dim": 32, "text_embed_dim": 64, "num_layers": 2, "sample_width": 8,
    "sample_height": 8, "sample_frames": 9, "max_text_seq_length": 12, "use_rotary_positional_embeddings": True,
}  # fmt: skip
SECONDS = {
    f"conditioner.conditioners.seconds_{end}.embedder.embedding.{name}": torch.full(shape, 0.01)
    for end in ("start", "total")
    for name, shape in (("0.weights", (128,)), ("1.weight", (768, 257)), ("1.bias", (768,)))
}
POOLED = {"pooled_output": normal(1, 24)}
MASK = {"attention_mask": masked}
WHOLE_MASK = {"attention_mask": ones(1, LENGTH, dtype=torch.long)}

RECIPES: Mapping[str, Recipe] = {
    "SD1.5": Recipe("SD15", {**UNET, "use_linear_in_transformer": False}, (4, 8, 8), lengths=(7, 14)),
    "SD2": Recipe("SD20", UNET, (4, 8, 8), lengths=(7, 14)),
    "SDXL": Recipe(
        "SDXL", {**UNET, **SDXL_ADM, "transformer_depth": [1, 2]}, (4, 8, 8),
        options={"pooled_output": normal(1, 1280)}, lengths=(7, 14),
    ),
    "SDXL refiner": Recipe(
        "SDXLRefiner", {**UNET, **SDXL_ADM, "adm_in_channels": 1280 + 5 * 256}, (4, 8, 8),
        options={"pooled_output": normal(1, 1280)}, lengths=(7, 14),
    ),
    "Stable Cascade C": Recipe(
        "Stable_Cascade_C",
        {"stable_cascade_stage": "c", "c_in": 16, "c_out": 16, "c_r": 32, "c_cond": 64, "c_hidden": [64, 64],
         "nhead": [2, 2], "blocks": [[1, 1], [1, 1]], "c_clip_text": 64, "c_clip_text_pooled": 64, "c_clip_img": 768},
        (16, 6, 6), options={"pooled_output": normal(1, 64)},
    ),
    "SD3": Recipe(
        "SD3",
        {"in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "num_patches": 256,
         "adm_in_channels": 32, "pos_embed_max_size": 16, "qk_norm": "rms", "pos_embed_scaling_factor": None,
         "context_embedder_config": {
             "target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}},
         "x_block_self_attn_layers": [0]},
        (16, 8, 8), options={"pooled_output": normal(1, 32)},
    ),
    "AuraFlow": Recipe(
        "AuraFlow",
        {"max_seq": 256, "cond_seq_dim": 64, "n_double_layers": 1, "n_layers": 2, "dim": 128, "n_heads": 2,
         "global_conddim": 128},
        (4, 8, 8),
    ),
    "PixArt": Recipe(
        "PixArtSigma",
        {"image_model": "pixart_sigma", "hidden_size": 64, "depth": 2, "num_heads": 4, "caption_channels": 64,
         "model_max_length": 300, "micro_condition": False, "input_size": 64, "pe_interpolation": 1},
        (4, 48, 48),
    ),
    "HunyuanDiT": Recipe(
        "HunyuanDiT1",
        {"image_model": "hydit1", "depth": 2, "hidden_size": 64, "num_heads": 2, "text_states_dim": 32,
         "text_states_dim_t5": 64, "text_len": 16, "text_len_t5": 16, "size_cond": True, "use_style_cond": True,
         "input_size": 16},
        (4, 8, 8), width=32, lengths=(16, 16),
        options={"conditioning_mt5xl": normal(1, 16, 64), "attention_mask": ones(1, 16),
                 "attention_mask_mt5xl": ones(1, 16)},
    ),
    "Flux.1 dev": Recipe("Flux", FLUX, (16, 8, 8), options=POOLED, newer={"txt_ids_dims": []}),
    "Flux.1 schnell": Recipe(
        "FluxSchnell", {**FLUX, "guidance_embed": False}, (16, 8, 8), options=POOLED, newer={"txt_ids_dims": []}
    ),
    "Flux.2": Recipe("Flux2", FLUX2, (128, 4, 4), newer={"txt_ids_dims": [3]}),
    "LongCat": Recipe(
        "LongCatImage", {**FLUX, "guidance_embed": False, "vec_in_dim": None, "txt_ids_dims": [1, 2]}, (16, 8, 8)
    ),
    "Chroma": Recipe("Chroma", CHROMA, (16, 8, 8), newer={"txt_ids_dims": [], "vec_in_dim": None}),
    "Lumina2": Recipe("Lumina2", LUMINA, (16, 8, 8), options=MASK),
    "Z-Image": Recipe(
        "ZImage",
        {**LUMINA, "n_kv_heads": 8, "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0,
         "pad_tokens_multiple": 32},
        (16, 8, 8),
    ),
    "OmniGen2": Recipe(
        "Omnigen2",
        {"image_model": "omnigen2", "in_channels": 16, "hidden_size": 96, "num_layers": 2, "num_refiner_layers": 1,
         "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 32, "ffn_dim_multiplier": 1.0,
         "axes_dim_rope": (16, 16, 16), "axes_lens": (64, 64, 64), "text_feat_dim": 64, "timestep_scale": 1000.0},
        (16, 8, 8), options=WHOLE_MASK,
    ),
    "Boogu": Recipe(
        "Boogu",
        {"image_model": "boogu", "in_channels": 16, "hidden_size": 96, "num_layers": 2, "num_double_stream_layers": 1,
         "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 32,
         "ffn_dim_multiplier": 1.0, "axes_dim_rope": (16, 16, 16), "axes_lens": (64, 64, 64),
         "instruction_feat_dim": 64},
        (16, 8, 8), options=WHOLE_MASK,
    ),
    "Qwen-Image": Recipe(
        "QwenImage",
        {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2,
         "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 64,
         "axes_dims_rope": (8, 12, 12)},
        (16, 1, 8, 8),
    ),
    "Wan 2.1 picture": Recipe("WAN21_T2V", WAN, (16, 1, 8, 8)),
    "Wan 2.1 video": Recipe("WAN21_T2V", WAN, (16, 3, 8, 8)),
    "Wan 2.1 i2v": Recipe("WAN21_I2V", {**WAN, "model_type": "i2v", "in_dim": 36}, (16, 2, 8, 8)),
    "Wan 2.2 5B": Recipe("WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, (48, 1, 8, 8)),
    "Wan 2.1 VACE": Recipe(
        "WAN21_Vace", {**WAN, "model_type": "vace", "vace_layers": 1, "vace_in_dim": 96}, (16, 1, 8, 8)
    ),
    "HunyuanVideo": Recipe(
        "HunyuanVideo", HUNYUAN, (16, 1, 8, 8), options=POOLED, newer={"meanflow_sum": False}
    ),
    "HunyuanVideo, masked": Recipe(
        "HunyuanVideo", HUNYUAN, (16, 2, 8, 8), options=POOLED | MASK, newer={"meanflow_sum": False}
    ),
    "HunyuanImage 2.1": Recipe(
        "HunyuanImage21", {**HUNYUAN, "patch_size": [2, 2], "in_channels": 64, "out_channels": 64, "vec_in_dim": None,
                           "axes_dim": [16, 16], "guidance_embed": False},
        (64, 8, 8), newer={"meanflow_sum": False},
    ),
    "HunyuanVideo 1.5": Recipe(
        "HunyuanVideo15", {**HUNYUAN, "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "vision_in_dim": 64,
                           "guidance_embed": False, "depth_single_blocks": 0, "use_cond_type_embedding": True},
        (32, 2, 8, 8), newer={"meanflow_sum": False},
    ),
    "LTX-Video": Recipe(
        "LTXV",
        {"image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32,
         "num_attention_heads": 2, "caption_channels": 64, "num_layers": 2},
        (128, 1, 4, 4), options=MASK,
    ),
    "Mochi": Recipe(
        "GenmoMochi",
        {"image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2, "hidden_size_x": 64,
         "hidden_size_y": 32, "mlp_ratio_x": 192.0, "mlp_ratio_y": 4.0, "learn_sigma": False, "in_channels": 12,
         "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True,
         "posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False,
         "timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": 64, "t5_token_length": 32, "rope_theta": 10000.0},
        (12, 1, 8, 8), options=MASK,
    ),
    "HiDream": Recipe(
        "HiDream",
        {"image_model": "hidream", "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [64, 64],
         "axes_dims_rope": [16, 8, 8], "max_resolution": [32, 32], "in_channels": 16, "llama_layers": [0, 1],
         "num_routed_experts": 4, "num_activated_experts": 4, "num_layers": 1, "num_single_layers": 1,
         "out_channels": 16, "patch_size": 2, "text_emb_dim": 24},
        (16, 8, 8), options={**POOLED, "conditioning_llama3": normal(1, 2, LENGTH, 64)},
    ),
    "Cosmos-Predict1": Recipe("CosmosT2V", COSMOS1, (16, 1, 8, 8), options=MASK),
    "Cosmos-Predict2": Recipe("CosmosT2IPredict2", COSMOS2, (16, 1, 8, 8)),
    "Anima": Recipe(
        "Anima", {**COSMOS2, "image_model": "anima", "crossattn_emb_channels": 1024}, (16, 1, 8, 8), width=1024,
        options={"t5xxl_ids": whole(LENGTH), "t5xxl_weights": ones(LENGTH)},
    ),
    "ACE-Step 1": Recipe(
        "ACEStep",
        {"audio_model": "ace", "in_channels": 8, "num_layers": 2, "inner_dim": 64, "attention_head_dim": 32,
         "num_attention_heads": 2, "mlp_ratio": 2.5, "out_channels": 8, "max_position": 64, "rope_theta": 1e6,
         "speaker_embedding_dim": 512, "text_embedding_dim": 64, "lyric_encoder_vocab_size": 100,
         "lyric_hidden_size": 1024, "patch_size": [16, 1], "max_height": 16, "max_width": 64},
        (8, 16, 32), options={"conditioning_lyrics": whole(1, LENGTH)},
    ),
    "ACE-Step 1.5": Recipe(
        "ACEStep15",
        {"audio_model": "ace1.5", "in_channels": 192, "hidden_size": 64, "text_hidden_dim": 64, "num_dit_layers": 2,
         "num_lyric_layers": 1, "num_timbre_layers": 1, "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 1,
         "head_dim": 32, "intermediate_size": 96, "fsq_dim": 64, "encoder_hidden_size": 64,
         "encoder_intermediate_size": 96, "encoder_num_heads": 2},
        (64, 20), options={"conditioning_lyrics": normal(1, LENGTH, 64)},
    ),
    "Stable Audio": Recipe(
        "StableAudio",
        {"audio_model": "dit1.0", "io_channels": 64, "embed_dim": 64, "cond_token_dim": 768, "global_cond_dim": 1536,
         "project_cond_tokens": True, "depth": 2, "num_heads": 2},
        (64, 16), width=768, state=SECONDS,
    ),
    "Hunyuan3D": Recipe(
        "Hunyuan3Dv2",
        {"image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 64, "hidden_size": 64, "num_heads": 2,
         "depth": 1, "depth_single_blocks": 1},
        (64, 16),
    ),
    "Kandinsky 5 picture": Recipe(
        "Kandinsky5Image", {**KANDINSKY, "visual_embed_dim": 64}, (16, 1, 8, 8), options=POOLED
    ),
    "Kandinsky 5 video": Recipe("Kandinsky5", {**KANDINSKY, "visual_embed_dim": 132}, (16, 2, 8, 8), options=POOLED),
    "Krea 2": Recipe(
        "Krea2",
        {"image_model": "krea2", "features": 64, "tdim": 32, "txtdim": 32, "heads": 2, "kvheads": 1, "multiplier": 2,
         "layers": 2, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2},
        (16, 1, 8, 8),
    ),
    "Ernie-Image": Recipe(
        "ErnieImage",
        {"image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 2,
         "ffn_hidden_size": 128, "in_channels": 128, "out_channels": 128, "patch_size": 1, "text_in_dim": 64,
         "rope_axes_dim": (8, 12, 12)},
        (128, 4, 4),
    ),
    "Lens": Recipe(
        "Lens",
        {"image_model": "lens", "in_channels": 128, "out_channels": 32, "patch_size": 2, "num_layers": 2,
         "attention_head_dim": 32, "num_attention_heads": 2, "enc_hidden_dim": 16, "axes_dims_rope": (8, 12, 12)},
        (128, 4, 4),
    ),
    "Ideogram 4": Recipe(
        "Ideogram4",
        {"image_model": "ideogram4", "in_channels": 128, "num_layers": 2, "num_attention_heads": 2,
         "attention_head_dim": 32, "intermediate_size": 96, "adaln_dim": 32, "llm_features_dim": 64,
         "mrope_section": (8, 4, 4)},
        (128, 4, 4),
    ),
    "JoyImage": Recipe(
        "JoyImage",
        {"image_model": "joyimage", "in_channels": 16, "hidden_size": 64, "num_attention_heads": 2, "text_dim": 64,
         "num_layers": 2, "rope_dim_list": [8, 12, 12]},
        (16, 1, 8, 8),
    ),
    "MageFlow": Recipe(
        "MageFlow",
        {"image_model": "mage_flow", "in_channels": 128, "out_channels": 128, "num_layers": 2,
         "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 64,
         "axes_dims_rope": (8, 12, 12)},
        (128, 4, 4),
    ),
    "CogVideoX": Recipe("CogVideoX_T2V", COG, (16, 3, 8, 8), lengths=(12, 12)),
}  # fmt: skip
