"""The node "LoRA Schedule": a curve by which a strength changes over the steps."""

from comfy_api.latest import io

from ...lora_core import LoraError
from ...lora_core.weave import parse_schedule
from ..sockets.socket_types import CATEGORY, LoraSchedule


class LoraScheduleNode(io.ComfyNode):
    """Thin: the points' text in, parse_schedule, a schedule out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomSchedule",
            display_name="LoRA Schedule",
            category=CATEGORY,
            description="A curve by which the strength of a LoRA changes over the steps of sampling.",
            inputs=[
                io.String.Input(
                    "points",
                    default="0:1, 1:1",
                    multiline=True,
                    tooltip="Points position:factor, separated by commas, such as 0:0, 0.3:1, 1:0.5. The position is "
                    "the share of sampling that is done, from 0 to 1; the factor, from -100 to 100, multiplies the "
                    "strength. Straight lines in between; two points at one position are a jump.",
                ),
            ],
            outputs=[
                LoraSchedule.Output(
                    "schedule", display_name="schedule", tooltip="For the input schedule of Apply LoRA and its stack."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, points: str | None = None) -> bool | str:
        """Refuse points that can't be read before the run starts; None is a connected text."""
        if points is None:
            return True
        try:
            parse_schedule(points)
        except LoraError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, points: str) -> io.NodeOutput:
        """Read the points."""
        return io.NodeOutput(parse_schedule(points))


NODES: list[type[io.ComfyNode]] = [LoraScheduleNode]
