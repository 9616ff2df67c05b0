"""Talks to a running ComfyUI over HTTP: queue a graph, wait for its answer, fetch its pictures."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]  # ComfyUI's API format: node id -> {"class_type", "inputs"}

SECONDS_BETWEEN_POLLS = 0.05
SECONDS_PER_REQUEST = 30.0


class HostError(Exception):
    """Base of what can go wrong between this client and the host."""


class HostUnreachable(HostError):
    """Nothing answers at the address, or it answers something else than JSON."""


class GraphRefused(HostError):
    """The host refused the graph (HTTP 400), or runs only some of its outputs (HTTP 200 with node_errors).

    `body` is its whole answer, `node_errors` the part on nodes.
    """

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.body = body
        self.node_errors: dict[str, Any] = dict(body.get("node_errors") or {})
        super().__init__(f"HTTP {status}: {_refusal(body)}")


class GraphFailed(HostError):
    """A node raised while the graph ran. `message` is the exception's text as the host reports it."""

    def __init__(self, prompt_id: str, details: Mapping[str, Any]) -> None:
        self.prompt_id = prompt_id
        self.details = details
        self.node_type = str(details.get("node_type", "?"))
        self.message = str(details.get("exception_message", "no message")).strip()
        super().__init__(f"{self.node_type}: {self.message}")


@dataclass(frozen=True)
class Answer:
    """What a finished graph left in the history."""

    prompt_id: str
    outputs: Mapping[str, Mapping[str, Any]] = field(repr=False)  # node id -> {"images": [...], "text": [...], ...}
    cached: frozenset[str] = frozenset()  # ids of nodes that did not run, because the host had their results

    def images(self, node_id: str) -> list[dict[str, str]]:
        """The references of a node's pictures, as `HostClient.picture` takes them."""
        return list(self.outputs.get(node_id, {}).get("images", []))

    def text(self, node_id: str) -> str:
        """A node's text output, its parts joined by newlines."""
        return "\n".join(str(part) for part in self.outputs.get(node_id, {}).get("text", []))


class HostClient:
    """One client of one host. Every method raises HostError, never urllib's own errors."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")  # http://127.0.0.1:8188
        self._client_id = uuid.uuid4().hex

    def is_up(self) -> bool:
        try:
            self.get("/system_stats")
        except HostError:
            return False
        return True

    def get(self, path: str) -> Any:
        """The JSON behind a path such as /queue."""
        return _json(self._request(path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON; the JSON answer, or None where the host answers nothing."""
        answer = self._request(path, json.dumps(body).encode())
        return _json(answer) if answer.strip() else None

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """Node id -> description, of all nodes or of one; empty if there is no such node."""
        return self.get("/object_info" + (f"/{urllib.parse.quote(node_id)}" if node_id else ""))

    def queue(self, graph: Graph) -> str:
        """The prompt id. GraphRefused if the host finds the graph, or the part of it behind one output, invalid."""
        try:
            answer = self.post("/prompt", {"prompt": graph, "client_id": self._client_id})
        except _HttpStatus as refusal:
            raise GraphRefused(refusal.status, refusal.body) from None
        if answer.get("node_errors"):
            raise GraphRefused(200, answer)
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 600.0) -> Answer:
        """Poll the history until the graph has ended. GraphFailed if it ended in an error; timeout in seconds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return _answer(prompt_id, entry)
            time.sleep(SECONDS_BETWEEN_POLLS)
        raise HostError(f"graph {prompt_id} has not ended after {timeout:.0f} s")

    def run(self, graph: Graph, timeout: float = 600.0) -> Answer:
        """Queue a graph and wait for it."""
        return self.wait(self.queue(graph), timeout)

    def picture(self, reference: Mapping[str, str]) -> bytes:
        """The file of a picture named in an Answer."""
        return self._request("/view?" + urllib.parse.urlencode(reference))

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def free(self) -> None:
        """Unload all models and drop the host's cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        request = urllib.request.Request(self.address + path, data=body, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the host is on this machine
        try:
            with opener.open(request, timeout=SECONDS_PER_REQUEST) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            raise _HttpStatus(path, error.code, error.read()) from None
        except (OSError, ValueError) as error:
            raise HostUnreachable(f"{self.address}{path}: {error}") from None


class _HttpStatus(HostError):
    """The host answered with an error status."""

    def __init__(self, path: str, status: int, answer: bytes) -> None:
        self.status = status
        self.body = _error_body(answer)
        super().__init__(f"{path}: HTTP {status}: {_refusal(self.body)}")


def _error_body(answer: bytes) -> dict[str, Any]:
    text = answer.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    return body if isinstance(body, dict) else {"error": {"message": str(body)[:500]}}


def _json(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        raise HostUnreachable(f"answered something else than JSON: {answer[:80]!r}") from None


def _refusal(body: Mapping[str, Any]) -> str:
    """One line: the host's reason, then each node's."""
    error = body.get("error") or {"message": "some outputs were refused"}
    reason = error.get("message", "no reason given") if isinstance(error, dict) else str(error)
    parts = [" ".join(str(reason).split())]
    for node_id, node in (body.get("node_errors") or {}).items():
        for problem in node.get("errors", ()):
            text = f"{problem.get('message', '')} {problem.get('details', '')}"
            parts.append(f"{node.get('class_type', '?')} (node {node_id}): {' '.join(text.split())}")
    return "; ".join(parts)


def _answer(prompt_id: str, entry: Mapping[str, Any]) -> Answer:
    status = entry.get("status") or {}
    messages = dict(status.get("messages") or ())
    if status.get("status_str") == "success":
        cached = messages.get("execution_cached", {}).get("nodes", ())
        return Answer(prompt_id, entry.get("outputs") or {}, frozenset(cached))
    for name, details in messages.items():
        if name in ("execution_error", "execution_interrupted"):
            raise GraphFailed(prompt_id, {"exception_message": name.replace("_", " "), **details})
    raise GraphFailed(prompt_id, {"exception_message": f"status {status.get('status_str')!r}"})
