"""The routes that the page asks, all under /lora_loom/: inputs checked here, answers made elsewhere."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from ...lora_core import FileMissing, LoraError
from ...lora_core.errors import BadSetting
from ...lora_core.file_work.block_sums import BlockNorm
from ...lora_core.files.sidecar import Sidecar, sidecar_path, write_sidecar
from ..host_files.inside import check_inside, find_inside
from .lora_info import hash_info, lora_info, norms
from .lora_library import LIBRARY
from .previews import CONTENT_TYPE, PREVIEWS
from .slow_work import HASHES, LOOKS
from .stack_templates import FILE, read_templates, remove_template, save_template

LOG = logging.getLogger(__name__)
PREFIX = "/lora_loom/"
BODY_AT_MOST = 1_000_000  # bytes of a request
NAME_AT_MOST = 1_000  # characters of a file's name
NOTES_AT_MOST = 100_000  # characters
WORDS_AT_MOST = 200
WORD_AT_MOST = 1_000  # characters
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Problem:
    """The answer to a request that can't be met: one line for a person."""

    error: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many files that are to be hashed have not had their turn yet."""

    waiting: int


@dataclass(frozen=True, slots=True)
class Norms:
    """The answer on the size of a file's change; empty before a run has loaded the file."""

    name: str
    blocks: Sequence[BlockNorm]


@dataclass(frozen=True, slots=True)
class WrittenNotes:
    """What a person writes beside a file."""

    name: str
    notes: str
    trigger_words: Sequence[str]


async def files(request: web.Request) -> web.StreamResponse:
    """GET files: every file of the loras folders, see lora_library.ListedFile."""
    listing = await asyncio.to_thread(LIBRARY.listing)
    return web.Response(body=listing, content_type="application/json", headers=HEADERS)


async def info(request: web.Request) -> web.StreamResponse:
    """GET info?name=: see lora_info.LoraInfo."""
    return _answer(await LOOKS.run(lora_info, _name(request)))


async def hashes(request: web.Request) -> web.StreamResponse:
    """GET hashes?name=: computed now, see lora_info.HashInfo."""
    return _answer(await HASHES.run(hash_info, _name(request)))


async def queue(request: web.Request) -> web.StreamResponse:
    """GET queue: see Waiting; for a person who waits."""
    return _answer(Waiting(HASHES.waiting))


async def block_sizes(request: web.Request) -> web.StreamResponse:
    """GET norms?name=: see Norms."""
    name = _name(request)
    return _answer(Norms(name, await LOOKS.run(norms, name)))


async def preview(request: web.Request) -> web.StreamResponse:
    """GET preview?name=: a small WebP picture."""
    picture = await LOOKS.run(PREVIEWS.of, _name(request))
    return web.Response(body=picture, content_type=CONTENT_TYPE, headers=HEADERS)


async def write_notes(request: web.Request) -> web.StreamResponse:
    """POST notes {"name", "notes", "trigger_words"}: into the sidecar; answers with what is in it now."""
    return _answer(await asyncio.to_thread(_write_notes, _notes(await json_table(request))))


async def templates(request: web.Request) -> web.StreamResponse:
    """GET templates: see stack_templates.Templates."""
    return _answer(await asyncio.to_thread(read_templates, _templates_path(request)))


async def change_templates(request: web.Request) -> web.StreamResponse:
    """POST templates {"name", "rows"}: keeps rows under a name; rows null removes the name."""
    fields = await json_table(request)
    name, rows = _text(fields, "name", 1_000), fields.get("rows")
    if rows is None:
        return _answer(await asyncio.to_thread(remove_template, _templates_path(request), name))
    rows = _text(fields, "rows", BODY_AT_MOST)
    return _answer(await asyncio.to_thread(save_template, _templates_path(request), name, rows))


ROUTES: Sequence[tuple[str, str, Handler]] = (
    ("GET", "files", files),
    ("GET", "info", info),
    ("GET", "hashes", hashes),
    ("GET", "queue", queue),
    ("GET", "norms", block_sizes),
    ("GET", "preview", preview),
    ("POST", "notes", write_notes),
    ("GET", "templates", templates),
    ("POST", "templates", change_templates),
)


def add_routes(routes: web.RouteTableDef) -> None:
    """Add every route to the host's table, before the host starts to serve it."""
    for method, path, handler in ROUTES:
        routes.route(method, PREFIX + path)(told(handler))


def told(handler: Handler) -> Handler:
    """The handler with its errors answered as Problem: 404 for a missing file, 400 for the rest of what is asked."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except FileMissing as error:
            return _answer(Problem(str(error)), 404)
        except LoraError as error:
            return _answer(Problem(str(error)), 400)
        except UnicodeError:
            return _answer(Problem("the request holds characters that no text can have"), 400)
        except OSError as error:
            LOG.warning("LoRA Loom: %s: %s", request.path, error)
            return _answer(Problem(f"a file can't be read or written ({error.strerror})"), 500)

    return answer


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.json_response(asdict(value), status=status, headers=HEADERS)


def _name(request: web.Request) -> str:
    return _checked_name(request.query.get("name", ""))


def _checked_name(name: str) -> str:
    if not name or len(name) > NAME_AT_MOST or not name.isprintable():
        raise BadSetting("the name of a LoRA file was expected, relative to the loras folders")
    return name


async def json_table(request: web.Request) -> Mapping[str, Any]:
    """The table in a request. Only JSON is taken, which a form of another site can't send."""
    if request.content_type != "application/json":
        raise BadSetting("a request that changes something has the content type application/json")
    content = bytearray()
    while len(content) <= BODY_AT_MOST and (part := await request.content.readany()):
        content += part
    if len(content) > BODY_AT_MOST:
        raise BadSetting(f"the request has more than {BODY_AT_MOST} bytes")
    try:
        fields: object = json.loads(content)
    except (ValueError, RecursionError):
        raise BadSetting("the request holds no JSON") from None
    if not isinstance(fields, dict):
        raise BadSetting("the request holds no JSON table")
    return cast("dict[str, Any]", fields)


def _text(fields: Mapping[str, Any], name: str, limit: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise BadSetting(f"'{name}' should be a text of at most {limit} characters")
    value.encode()  # raises UnicodeError for halves of characters, which no file can hold
    return value


def _notes(fields: Mapping[str, Any]) -> WrittenNotes:
    words: Any = fields.get("trigger_words")
    if not isinstance(words, list) or len(cast("list[Any]", words)) > WORDS_AT_MOST:
        raise BadSetting(f"'trigger_words' should be a list of at most {WORDS_AT_MOST} texts")
    texts = cast("list[Any]", words)
    if not all(isinstance(word, str) and 0 < len(word.strip()) <= WORD_AT_MOST for word in texts):
        raise BadSetting(f"a trigger word should be a text of 1 to {WORD_AT_MOST} characters")
    "".join(texts).encode()  # raises UnicodeError, see _text
    return WrittenNotes(
        _checked_name(_text(fields, "name", NAME_AT_MOST)),
        _text(fields, "notes", NOTES_AT_MOST),
        [word.strip() for word in texts],
    )


def _write_notes(written: WrittenNotes) -> Sidecar:
    path = find_inside(written.name)
    check_inside(sidecar_path(path))
    return write_sidecar(path, written.notes, written.trigger_words)


def _templates_path(request: web.Request) -> Path:
    """In the folder of the person who asks, as the host tells it."""
    from server import PromptServer  # the host's; there is none where the nodes are used in tests

    try:
        path = PromptServer.instance.user_manager.get_request_user_filepath(request, FILE, create_dir=False)
    except KeyError:
        path = None
    if path is None:
        raise BadSetting("the host knows no such user")
    return Path(path)
