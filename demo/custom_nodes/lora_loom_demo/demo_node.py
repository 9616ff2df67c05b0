"""The node "Demo model (shapes)": sockets only; the loading is demo_model's."""

from comfy_api.latest import ComfyExtension, io

from .demo_model import demo_folder, load_demo_model
from .words import VOCABULARY

DESCRIPTION = (
    "A tiny diffusion model of coloured shapes that runs on any CPU. Use it at 128x128 with captions such as "
    "'red circle on white'. It knows these words: " + ", ".join(VOCABULARY) + "."
)


class DemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraLoomDemoModel",
            display_name="Demo model (shapes)",
            category="LoRA Loom/demo",
            description=DESCRIPTION,
            inputs=[],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_model(demo_folder()))


class LoraLoomDemoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [DemoModel]
