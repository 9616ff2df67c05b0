"""The node "LoRA Block Strengths": factors by which single blocks of one LoRA count."""

from comfy_api.latest import io

from ...lora_core import LoraError
from ...lora_core.weave.block_strengths import parse_block_strengths
from ..sockets.socket_types import CATEGORY, LoraBlocks


class BlockStrengthsNode(io.ComfyNode):
    """Thin: the text in, parse_block_strengths, block strengths out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomBlockStrengths",
            display_name="LoRA Block Strengths",
            category=CATEGORY,
            description="Factors by which single blocks of a LoRA count more, less or not at all.",
            inputs=[
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="PATTERN=FACTOR, separated by commas or lines, such as in4=0.5, mid=1, out*=0. The pattern "
                    "is a block's name or a layer's path, with * and ?; the factor, from -100 to 100, multiplies the "
                    "strength. Factors that fit the same layer multiply; what is not named is 1.",
                ),
            ],
            outputs=[
                LoraBlocks.Output("blocks", display_name="blocks", tooltip="For the input blocks of Apply LoRA."),
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        """Refuse a text that can't be read before the run starts; None is a connected text."""
        if text is None:
            return True
        try:
            parse_block_strengths(text)
        except LoraError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        """Read the text."""
        return io.NodeOutput(parse_block_strengths(text))


NODES: list[type[io.ComfyNode]] = [BlockStrengthsNode]
