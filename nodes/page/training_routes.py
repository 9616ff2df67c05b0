"""The routes of the training view: what is under way, and the wish to stop and keep."""

from typing import Any

from aiohttp import web

from .training_progress import BOARD, host_server

PREFIX = "/lora_loom/training"


async def views(_: web.Request) -> web.Response:
    """Every training that this server knows, under way or ended."""
    return web.json_response(BOARD.all())


async def stop(request: web.Request) -> web.Response:
    """{"node": id}: end that training after its present step, keep the result, and go on with the graph."""
    try:
        body: Any = await request.json()
        node = body["node"]
    except (ValueError, KeyError, TypeError):
        return web.json_response({"error": 'send {"node": "the id of the node"}'}, status=400)
    if not isinstance(node, str) or not BOARD.ask_to_stop(node):
        return web.json_response({"error": "this node is not training"}, status=404)
    return web.json_response({"stopping": node})


def add_routes() -> None:
    """Add the routes to the host's server, where one runs."""
    server = host_server()
    if server is not None:
        server.routes.get(PREFIX)(views)
        server.routes.post(f"{PREFIX}/stop")(stop)
