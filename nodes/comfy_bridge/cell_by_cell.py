"""Samples the images of a batch one after the other where one batch would not give the picture of each run alone.

A sampler that draws noise as it goes draws other noise for each image; one that chooses its steps by the error, and
guidance that sums over the batch, mix the images; a wrapper may call the model with one image and not tell which.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.samplers import KSAMPLER

LOG = logging.getLogger(__name__)

# The host's functions whose next latent of an image depends on that image alone, by their own equations.
EACH_FOR_ITSELF = frozenset({
    "sample_euler", "sample_euler_cfg_pp", "sample_heun", "sample_heunpp2", "sample_dpm_2", "sample_lms",
    "sample_dpmpp_2m", "sample_dpmpp_2m_cfg_pp", "sample_ipndm", "sample_ipndm_v", "sample_deis",
    "sample_res_multistep", "sample_res_multistep_cfg_pp", "sample_gradient_estimation",
    "sample_gradient_estimation_cfg_pp", "sample_unipc", "sample_unipc_bh2",
})  # fmt: skip
GUIDERS = frozenset({"CFGGuider", "Guider_Basic", "Guider_DualCFG"})
CHANGED_GUIDANCE = (
    "model_function_wrapper", "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)  # fmt: skip


def why_one_by_one(guider: Any, sampler: Any, mask: torch.Tensor | None, own_wrapper: str) -> str:
    """What stands against one batch in this run, in words; empty if nothing does."""
    function = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    if type(sampler) is not KSAMPLER or function not in EACH_FOR_ITSELF or sampler.extra_options:
        return f"the sampler ({function}) may draw noise or choose steps for the whole batch"
    if mask is not None and sampler.inpaint_options.get("random", False):
        return "the sampler draws noise of its own under a mask"
    if type(guider).__name__ not in GUIDERS:
        return f"the guider ({type(guider).__name__}) may sum over the batch"
    changed = [name for name in CHANGED_GUIDANCE if guider.model_options.get(name)]
    changed += _others(guider.model_options.get("transformer_options", {}), own_wrapper)
    return f"{', '.join(changed)} of another node may mix the images" if changed else ""


def _others(options: Mapping[str, Any], own_wrapper: str) -> list[str]:
    """The keys of wrappers that are not this pack's."""
    by_kind: Mapping[str, Mapping[Any, Any]] = options.get("wrappers", {})
    return sorted({str(key) for kind in by_kind.values() for key, held in kind.items() if held and key != own_wrapper})


def sample_one_by_one(
    executor: Any, noise: torch.Tensor, latent: torch.Tensor, arguments: Sequence[Any], options: Mapping[str, Any],
    mask: torch.Tensor | None, at_image: Callable[[int], None],
) -> torch.Tensor:  # fmt: skip
    """Each image [1, ...] of a batch by a run of its own with the same seed; `at_image` hears its number before.

    `arguments` and `options` are what else the host hands over, the mask among them.
    """
    guider = executor.class_obj
    conds, done = guider.conds, list[torch.Tensor]()
    for number in range(noise.shape[0]):
        at_image(number)
        guider.conds = {kind: [dict(cond) for cond in of_kind] for kind, of_kind in conds.items()}
        own = None if mask is None else mask[number % mask.shape[0]][None]
        replaced = [own if value is mask else value for value in arguments]
        named = {name: own if value is mask else value for name, value in options.items()}
        if named.get("latent_shapes"):
            named["latent_shapes"] = [latent[:1].shape]
        done.append(executor(noise[number][None], latent[number][None], *replaced, **named))
    return torch.cat(done)
