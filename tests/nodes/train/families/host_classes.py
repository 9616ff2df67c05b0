"""Which classes of the host have no recipe, and why."""

from collections.abc import Mapping

# Classes of the host whose denoiser is that of a recipe, with other sizes.
LIKE_ANOTHER: Mapping[str, str] = {
    "SD21UnclipL": "SD2", "SD21UnclipH": "SD2", "SSD1B": "SDXL", "KOALA_700M": "SDXL", "KOALA_1B": "SDXL",
    "Segmind_Vega": "SDXL", "Stable_Cascade_B": "Stable Cascade C", "PixArtAlpha": "PixArt",
    "HunyuanDiT": "HunyuanDiT", "FluxInpaint": "Flux.1 dev", "HunyuanVideoSkyreelsI2V": "HunyuanVideo",
    "HunyuanVideoI2V": "HunyuanVideo", "HunyuanVideo15_SR_Distilled": "HunyuanVideo 1.5",
    "HunyuanImage21Refiner": "HunyuanImage 2.1", "CosmosI2V": "Cosmos-Predict1",
    "CosmosI2VPredict2": "Cosmos-Predict2", "WAN21_CausalAR_T2V": "Wan 2.1 video",
    "WAN21_FunControl2V": "Wan 2.1 i2v", "WAN21_Camera": "Wan 2.1 video", "WAN22_Camera": "Wan 2.1 video",
    "WAN22_S2V": "Wan 2.1 video", "WAN21_HuMo": "Wan 2.1 video", "WAN22_Animate": "Wan 2.1 video",
    "WAN21_SCAIL": "Wan 2.1 video", "WAN21_SCAIL2": "Wan 2.1 video", "WAN22_WanDancer": "Wan 2.1 video",
    "Hunyuan3Dv2mini": "Hunyuan3D", "CogVideoX_I2V": "CogVideoX", "CogVideoX_Inpaint": "CogVideoX",
    "ChromaRadiance": "Chroma", "ZImagePixelSpace": "Z-Image", "StableAudio3": "Stable Audio",
}  # fmt: skip
NOT_TRIED = "no tiny model of it was made"
NEEDS_A_PICTURE = "makes one picture of another, so that its pictures come in pairs"
# The other classes of the host -> why there is no recipe.
NOT_TRAINED: Mapping[str, str] = {
    "LotusD": NEEDS_A_PICTURE, "SD15_instructpix2pix": NEEDS_A_PICTURE, "SDXL_instructpix2pix": NEEDS_A_PICTURE,
    "SD_X4Upscaler": NEEDS_A_PICTURE, "WAN21_FlowRVS": NEEDS_A_PICTURE, "Stable_Zero123": NEEDS_A_PICTURE,
    "SV3D_u": NEEDS_A_PICTURE, "SV3D_p": NEEDS_A_PICTURE, "SVD_img2vid": NEEDS_A_PICTURE, "SeedVR2": NEEDS_A_PICTURE,
    "RT_DETR_v4": "finds things", "SAM3": "finds things", "SAM31": "finds things", "DepthAnything3": "finds depths",
    "LTXAV": NOT_TRIED, "PiD": NOT_TRIED, "PixelDiTT2I": NOT_TRIED, "Hunyuan3Dv2_1": NOT_TRIED,
    "TripoSplat": NOT_TRIED, "HiDreamO1": NOT_TRIED,
}  # fmt: skip
