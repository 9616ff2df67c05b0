"""The node "Merge LoRA": several LoRAs into one, exactly or by a method of the tables."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.file_work.merging.layer_deltas import MergeSettings
from ...lora_core.file_work.merging.merge_files import LayerStrengths, MergeOrder, merge_files
from ...lora_core.file_work.merging.methods import METHODS
from ..comfy_bridge import HostProgress
from ..sockets.socket_types import CATEGORY, lora_output, report_output_of
from .limit_inputs import limit_inputs, limits_of, size_of
from .source_inputs import given_model, given_sources, model_inputs, short_names, source_inputs

MOST_SEED = 2**53 - 1  # what a page's numbers hold exactly
METHODS_TIP = "; ".join(f"{name}: {method.about}" for name, method in METHODS.items())


class MergeLora(io.ComfyNode):
    """Thin: LoRAs and an order in, merge_files, a LORA in memory out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomMerge",
            display_name="Merge LoRA",
            category=CATEGORY,
            description="Makes one LoRA of several, of any dialects, algorithms and ranks. Applied, the exact methods "
            "are what the LoRAs one after another are. The result goes to Apply LoRA, Save LoRA and others.",
            inputs=[
                io.Combo.Input("method", options=list(METHODS), default="concat", tooltip=f"{METHODS_TIP}."),
                *limit_inputs(rank=0, with_size=True),
                _share("density", 0.5, "Share of the entries that ties, knots, prune, dare and della keep"),
                _share("spread", 0.1, "della: how far its keep probabilities lie apart around the density"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MOST_SEED,
                    control_after_generate=False,  # another seed at every run would merge anew at every run
                    tooltip=f"Of what dare and della drop, a whole number from 0 to {MOST_SEED}. The same seed gives "
                    "the same file.",
                ),
                io.String.Input(
                    "layers",
                    default="",
                    multiline=True,
                    tooltip="Strengths of some layers, multiplied with those of the LoRAs; one line each, "
                    "PATTERN=S for all LoRAs or PATTERN=S,S,... with one for each. The pattern is a layer's path with "
                    "* and ?. Such as double_blocks.*=1,0",
                ),
                *source_inputs("to merge"),
                *model_inputs("Needed for DoRA, OFT, GLoRA and IA3, whose change depends on its weights, and for "
                              "models whose layers are not known by name."),
            ],
            outputs=[lora_output("The merged LoRA, in memory."), report_output_of("Ranks, errors and kept energy.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        method: str,
        rank: int,
        energy: float,
        max_error: float,
        size: float,
        density: float,
        spread: float,
        seed: int,
        layers: str,
        lora_stack: Any = None,
        model: Any = None,
        clip: Any = None,
        **slots: Any,
    ) -> io.NodeOutput:
        """Merge; LoraError, and nothing given on, where a layer can't be merged."""
        sources, given = given_sources(lora_stack, slots), given_model(model, clip)
        order = MergeOrder(
            method=method,
            settings=MergeSettings(density=density, spread=spread, seed=seed),
            limits=limits_of(rank, energy, max_error),
            size=size_of(size),
            layers=[LayerStrengths.parse(line.strip()) for line in layers.splitlines() if line.strip()],
        )
        merged = merge_files(sources, order, given.layout, read=given.read, progress=HostProgress())
        report = "\n".join([f"{len(sources)} merged by {method}:", *merged.lines()])
        return io.NodeOutput(merged.in_memory(f"{method} of {short_names(sources)}"), report, ui={"text": [report]})


def _share(name: str, default: float, what: str) -> io.Float.Input:
    tip = f"{what}, from 0 to 1. The other methods don't read it."
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tip)


NODES: list[type[io.ComfyNode]] = [MergeLora]
