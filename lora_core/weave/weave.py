"""All adapters of a plan that act beside the layers, woven layer by layer when they are first needed."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..loading.loaded_lora import LoadedLora
from .row_strengths import Strengths
from .strand import Strand
from .woven_layer import WovenLayer, size_of


class Weave(nn.Module):
    """The woven layers of one model, by the layer's path. Its parameters are what a host has to place and to count.

    They are made by `build`, so that the plans of a chain of nodes cost nothing but the last one.
    """

    def __init__(
        self,
        strands: Mapping[str, Sequence[Strand]],
        shapes: Mapping[str, tuple[int, ...]],
        files: Sequence[LoadedLora],
        dtype: torch.dtype,
    ) -> None:
        """Plan a weave.

        Args:
            strands: path of the layer -> its strands.
            shapes: path -> shape of the layer's weight, [out, in, *kernel].
            files: those that the strands' numbers count; kept as long as the weave.
            dtype: in which the model computes.
        """
        super().__init__()
        self._strands = dict(strands)
        self._shapes = dict(shapes)
        self._dtype = dtype
        self.files: tuple[LoadedLora, ...] = tuple(files)
        self.paths: tuple[str, ...] = tuple(strands)
        self.size = (
            sum(size_of(group, shapes[path]) for path, group in strands.items()) * dtype.itemsize
        )  # bytes of its matrices, made or not
        self.layers = nn.ModuleList()
        self._set: Tensor | None = None  # the strengths that the layers have now, on the CPU

    def build(self) -> Mapping[str, WovenLayer]:
        """Path of the layer -> what acts beside it; woven at the first call."""
        if not self.is_built:
            names = [file.report.file for file in self.files]
            woven = [WovenLayer(self._strands[path], self._shapes[path], self._dtype, names) for path in self.paths]
            _share_strengths(woven)
            self._set = None
            self.layers = nn.ModuleList(woven)
        layers = (layer for layer in self.layers if isinstance(layer, WovenLayer))
        return dict(zip(self.paths, layers, strict=True))

    @property
    def is_built(self) -> bool:
        """Whether its matrices are made."""
        return len(self.layers) == len(self.paths)

    def drop(self) -> None:
        """Let go of the matrices; what is attached to a model goes on with its own."""
        self.layers = nn.ModuleList()

    def empty(self) -> None:
        """Let go of matrices, strands and files; for a weave that nobody will build again."""
        self.drop()
        self._strands, self.paths, self.files = {}, (), ()

    def place(self, device: torch.device) -> None:
        """Move the matrices to a device, if they are elsewhere."""
        here = next((parameter.device for parameter in self.parameters()), device)
        if here != device:
            self.to(device)

    def _make_own(self) -> None:
        """Copy what a host has moved in inference mode: such a tensor can't be written to, or trained through."""
        if torch.is_inference_mode_enabled():
            return
        for module in self.modules():  # torch has no public way to replace what their tables hold
            for name, matrix in module._parameters.items():
                if matrix is not None and matrix.is_inference():
                    module._parameters[name] = nn.Parameter(matrix.clone(), requires_grad=False)
            for name, strengths in module._buffers.items():
                if strengths is not None and strengths.is_inference():
                    module._buffers[name] = strengths.clone()

    def set_strengths(self, strengths: Sequence[float] | Tensor) -> None:
        """Take over the strength of each file; no weight and no matrix is written.

        Args:
            strengths: [files], or [samples, files] where the samples of the model's next call differ.
        """
        values = torch.as_tensor(strengths, dtype=torch.float32)
        layers = self.build().values()
        self._make_own()
        if self._set is not None and torch.equal(self._set, values):
            return
        self._set = None  # half of a change would be taken for a whole one
        for shared in {layer.numbers: layer.rank_strengths for layer in layers}.values():
            shared.set(values)
        for layer in layers:
            if layer.others or layer.biases is not None:
                layer.set_other_strengths(values)
        self._set = values


def _share_strengths(layers: Sequence[WovenLayer]) -> None:
    """Let layers with the same ranks of the same files, which most are, have one tensor of strengths."""
    shared: dict[tuple[int, ...], Strengths] = {}
    for layer in layers:
        layer.rank_strengths = shared.setdefault(layer.numbers, layer.rank_strengths)
