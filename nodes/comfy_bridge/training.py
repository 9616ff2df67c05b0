"""A host model as training sees it: frozen, differentiable, and put back exactly as it was found."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...lora_core.errors import BadTraining
from ...lora_core.training import Memory
from ...lora_core.training.dataset import TrainSample
from ...lora_core.training.recomputing import Recomputed
from .differentiable import differentiable
from .frozen_weights import StandIns, stand_ins
from .model_names import ModelNames
from .other_forwards import other_forwards
from .sampling_kinds import sampling_kind
from .weights_digest import fingerprint_of
from .woven_models import compute_dtype

CAPTURE = "lora_loom_training"
KEPT_BYTES = 256 * 1024**2  # of conditions of captions, on the model's device, while it trains
REPEATED_AT_MOST = 4  # times that the shortest text of a group is repeated, as the host's sampler does
MASK = "mask"  # in the name of a condition that leaves parts of a text out
ALONE = ("ACEStep15",)  # host models that mix what belongs to the pictures of a batch
MASKED_APART = ("GenmoMochi", "LTXV", "HunyuanDiT", "PixArt")  # host models that heed a mask of each picture's own
PIXELS_PER_LATENT = 8  # along each side, as the host's own micro-conditioning assumes


@dataclass(frozen=True, slots=True)
class Joining:
    """What a model allows captions of one batch to be."""

    at_all: bool
    by_repeating: bool  # of different lengths: a text that is only looked at says the same twice as once
    by_masks: bool  # with a mask of their own each


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """What the pictures of a batch are conditioned on; those of one group go through the model together."""

    groups: Sequence[tuple[Sequence[int], Mapping[str, Any]]]  # (numbers in the batch, arguments of apply_model)


class KeptConditions:
    """What the host made of captions, for the next time they are seen; as many as have room."""

    def __init__(self, limit: int) -> None:
        """limit: bytes."""
        self._limit = limit
        self._kept: dict[Any, tuple[Any, dict[str, Any]]] = {}  # with what the key is about, so that its id lives on
        self._bytes = 0

    def find(self, key: Any, conditioning: Any) -> dict[str, Any] | None:
        """What was kept of it."""
        about, found = self._kept.get(key, (None, None))
        return found if about is conditioning else None

    def keep(self, key: Any, conditioning: Any, conditions: dict[str, Any]) -> dict[str, Any]:
        """Keep it if there is room, and hand it on. Nothing makes room for it: training sees all in turn."""
        size = sum(one.cond.nbytes for one in conditions.values() if isinstance(getattr(one, "cond", None), Tensor))
        if self._bytes + size <= self._limit:
            self._kept[key] = (conditioning, conditions)
            self._bytes += size
        return conditions

    def forget(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._bytes = 0


def can_join(members: Sequence[Mapping[str, Any]], own: Mapping[str, Any], how: Joining) -> bool:
    """Whether conditions can go through the model with these: with each of them, and without much repeating.

    The host joins texts by repeating them to a common length, which grows with every length that is new.
    """
    if not how.at_all or any(member.keys() != own.keys() for member in members):
        return False
    if not how.by_masks and any(MASK in name and not _is_whole(value) for name, value in own.items()):
        return False
    if not all(member[name].can_concat(own[name]) for member in members for name in own):
        return False
    for name, value in own.items():
        if isinstance(value, comfy.conds.CONDCrossAttn):
            lengths = [int(one[name].cond.shape[1]) for one in (*members, own)]
            if math.lcm(*lengths) > (REPEATED_AT_MOST if how.by_repeating else 1) * min(lengths):
                return False
    return True


def _is_whole(mask: Any) -> bool:
    """Whether it leaves nothing out."""
    return not isinstance(mask.cond, Tensor) or bool(mask.cond.all())


class HostDenoiser:
    """See lora_core.training.Denoiser."""

    def __init__(self, patcher: ModelPatcher, names: ModelNames, *, keeps: bool = True) -> None:
        """Raises BadTraining for a model whose kind of prediction is not known.

        keeps: whether what follows from a conditioning is kept; of no use where conditionings are made at every step.
        """
        self._patcher = patcher
        self._model: Any = patcher.model
        self.layout = names.layout
        self._sampling: Any = patcher.get_model_object("model_sampling")  # what other nodes put in its place, if any
        self._kind = sampling_kind(self._sampling)
        self.noising = self._kind.noising
        self.device: torch.device = patcher.load_device
        self.dtype = compute_dtype(patcher)
        self._weights = StandIns([])
        lineage = " ".join(kind.__qualname__ for kind in type(self._sampling).__mro__)
        self.fingerprint = fingerprint_of(patcher, lineage)
        kinds = {kind.__name__ for kind in type(self._model).__mro__}
        self._joining = Joining(
            at_all=kinds.isdisjoint(ALONE),
            by_repeating=self.layout.family.is_stable_diffusion,
            by_masks=not kinds.isdisjoint(MASKED_APART),
        )
        self._kept = KeptConditions(KEPT_BYTES if keeps else 0)

    def modules(self) -> dict[str, nn.Module]:
        """See Denoiser.modules."""
        return dict(self._model.named_modules())

    @contextmanager
    def frozen(self) -> Generator[None]:
        """See Denoiser.frozen."""
        self._load()
        with ExitStack() as held:
            held.callback(self._kept.forget)
            self._weights = held.enter_context(stand_ins(self._model))
            yield

    def settle(self) -> None:
        """Call it inside of `frozen` when others have used the model, which the host may have moved away for them."""
        with torch.inference_mode(False):
            self._load()
            self._weights.settle()

    def _load(self) -> None:
        comfy.model_management.load_models_gpu([self._patcher], force_full_load=True)

    def scaled(self, latent: Tensor) -> Tensor:
        """See Denoiser.scaled. Raises BadTraining for latents of another family's VAE."""
        expected = self._model.latent_format
        sides, channels = latent.dim() - 2, latent.shape[1]
        if channels != expected.latent_channels or sides < expected.latent_dimensions:
            wanted = f"{expected.latent_channels} channels along {expected.latent_dimensions} axes"
            found = f"the pictures have latents of {channels} channels along {sides}"
            raise BadTraining([f"the model takes latents of {wanted}, {found}; connect the VAE of this model's family"])
        with torch.inference_mode(False):
            return self._model.process_latent_in(latent.clone())

    def sigmas_at(self, positions: Tensor) -> Tensor:
        """See Denoiser.sigmas_at."""
        return self._kind.sigmas_at(positions)

    def conditions(self, samples: Sequence[TrainSample], conditionings: Sequence[Any], shape: torch.Size) -> Conditions:
        """See Denoiser.conditions; pictures whose texts can't be joined form groups of their own."""
        groups: list[tuple[list[int], list[dict[str, Any]]]] = []
        for number, (sample, conditioning) in enumerate(zip(samples, conditionings, strict=True)):
            own = self._conditions_of(sample, conditioning, shape)
            for numbers, members in groups:
                if can_join(members, own, self._joining):
                    numbers.append(number)
                    members.append(own)
                    break
            else:
                groups.append(([number], [own]))
        return Conditions(
            [
                (numbers, {k: first[k].concat([other[k] for other in others]) for k in first})
                for numbers, (first, *others) in groups
            ]
        )

    def _conditions_of(self, sample: TrainSample, conditioning: Any, shape: torch.Size) -> dict[str, Any]:
        key = (id(conditioning), sample.size, sample.crop, shape[1:])
        found = self._kept.find(key, conditioning)
        return self._kept.keep(key, conditioning, self._asked(sample, conditioning, shape)) if found is None else found

    def _asked(self, sample: TrainSample, conditioning: Any, shape: torch.Size) -> dict[str, Any]:
        text, options = conditioning[0]
        given = {k: _normal(value, self.device) for k, value in options.items()}
        height, width = (side * PIXELS_PER_LATENT for side in shape[-2:])
        noise = torch.zeros(1, *shape[1:], device=self.device)
        found = self._model.extra_conds(
            **given,
            cross_attn=_normal(text, self.device),
            device=self.device,
            noise=noise,
            latent_image=noise,
            denoise_mask=None,
            height=sample.size[0],
            width=sample.size[1],
            crop_h=sample.crop[0],
            crop_w=sample.crop[1],
            target_height=height,
            target_width=width,
            prompt_type="positive",
        )
        return {name: value.process_cond(batch_size=1, area=None) for name, value in found.items()}

    def predict(self, noisy: Tensor, sigmas: Tensor, conditions: Conditions) -> Tensor:
        """See Denoiser.predict; the output before the host turns it into a clean picture."""
        parts: list[tuple[Sequence[int], Tensor]] = [
            (numbers, self._outputs(noisy[list(numbers)], sigmas[list(numbers)], arguments))
            for numbers, arguments in conditions.groups
        ]
        if len(parts) == 1:
            return parts[0][1]
        order = torch.tensor([number for numbers, _ in parts for number in numbers])
        return torch.cat([output for _, output in parts])[order.argsort().to(noisy.device)]

    def _outputs(self, noisy: Tensor, sigmas: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        captured: list[Any] = []

        def capture(executor: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
            captured.append(executor(*inputs, **options))
            return captured[-1]

        options = _copied(self._patcher.model_options.get("transformer_options", {}))
        comfy.patcher_extension.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, CAPTURE, capture, options)
        options |= {"cond_or_uncond": [0] * len(noisy), "sigmas": sigmas}
        clean: Tensor = self._model.apply_model(noisy, sigmas, transformer_options=options, **arguments)
        if captured and isinstance(captured[0], Tensor) and captured[0].shape == noisy.shape:
            return captured[0]
        return _output_of(self._sampling, noisy, clean, sigmas)

    def differentiable(self) -> AbstractContextManager[None]:
        """See Denoiser.differentiable."""
        return differentiable()

    @contextmanager
    def recomputing(self) -> Generator[None]:
        """See Denoiser.recomputing."""
        with other_forwards(blocks_of(self._model.diffusion_model), Recomputed):
            yield

    def memory(self) -> Memory | None:
        """See Denoiser.memory."""
        host: Any = comfy.model_management
        return Memory(int(host.get_free_memory(self.device)), int(host.get_total_memory(self.device)))


def blocks_of(module: nn.Module, *, inside: bool = False) -> list[nn.Module]:
    """The blocks of a denoiser: what its lists of layers hold, through lists inside of lists."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += blocks_of(child, inside=True)
        elif inside:
            found.append(child)
    return found


def _output_of(sampling: Any, noisy: Tensor, clean: Tensor, sigmas: Tensor) -> Tensor:
    """The model's output from the clean picture that the host made of it; for models that can't be listened to.

    clean = a(sigma) noisy + b(sigma) output, with the host's own a and b.
    """
    nothing = torch.zeros_like(noisy)
    kept = sampling.calculate_denoised(sigmas, nothing, noisy)
    factor = sampling.calculate_denoised(sigmas, torch.ones_like(noisy), nothing)
    return (clean - kept) / factor


def _normal(value: Any, device: torch.device) -> Any:
    """A tensor on the device that autograd may keep; anything else as it is."""
    return value.to(device).clone() if isinstance(value, Tensor) else value


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with wrappers that can be added to without changing those of the model."""
    wrappers = {
        kind: {key: list(entries) for key, entries in by_key.items()}
        for kind, by_key in options.get("wrappers", {}).items()
    }
    return {**options, "wrappers": wrappers}
