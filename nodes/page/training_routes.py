"""The routes of the training view: what is under way, and the wish to stop and keep."""

from aiohttp import web

from ...lora_core.errors import BadSetting
from .http_routes import HEADERS, json_table, told
from .training_progress import BOARD, host_server

PREFIX = "/lora_loom/training"


async def views(_: web.Request) -> web.StreamResponse:
    """Every training that this server knows, under way or ended."""
    return web.json_response(BOARD.all(), headers=HEADERS)


async def stop(request: web.Request) -> web.StreamResponse:
    """{"node": id}: end that training after its present step, keep the result, and go on with the graph."""
    node = (await json_table(request)).get("node")
    if node is None:
        raise BadSetting('send {"node": "the id of the node"}')
    if not isinstance(node, str) or not BOARD.ask_to_stop(node):
        return web.json_response({"error": "this node is not training"}, status=404, headers=HEADERS)
    return web.json_response({"stopping": node}, headers=HEADERS)


def add_routes() -> None:
    """Add the routes to the host's server, where one runs."""
    server = host_server()
    if server is not None:
        server.routes.get(PREFIX)(told(views))
        server.routes.post(f"{PREFIX}/stop")(told(stop))
