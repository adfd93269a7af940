"""What stands between the app and strangers: which hosts it answers to, how much it takes, what browsers may do.

A page anywhere can make its visitors' browsers ask 127.0.0.1, under a name of its own that it points there (DNS
rebinding): so a request is answered only if it came for a name that is ours, and a writing one only if it came from a
page of ours.
"""

import ipaddress
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from gradio.route_utils import FnIndexInferError
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sam_hf.ui.reading import MAX_BYTES

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A form around the file, and JSON with the masks of many objects.
MAX_BODY = MAX_BYTES + 2**16
READING = ("GET", "HEAD", "OPTIONS")


class TrustedHosts:
    """Answers only requests for known hosts, and writing ones only from pages of known hosts.

    Args:
        app: What answers.
        hosts: Names, without port; "*.example.org" for all below; "*" for all.
        any_address: Whether addresses (not names) are fine: nobody can point those elsewhere.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], any_address: bool = False):
        self._app, self._hosts, self._any_address = app, [host.lower() for host in hosts], any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._is_known(headers.get("host", "")):
            await refuse(send, 400, "this server does not answer to that host name; see --allowed-host")
            return
        origin = headers.get("origin")
        writes = scope["type"] == "websocket" or scope["method"] not in READING
        if writes and origin is not None and not self._is_known(urlsplit(origin).netloc):
            await refuse(send, 403, "requests from pages of other sites are not answered")
            return
        await self._app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        for known in self._hosts:
            if known in ("*", name) or (known.startswith("*.") and name.endswith(known[1:])):
                return True
        return self._any_address and _is_address(name)


class BodyLimit:
    """Refuses bodies that are too large, by their length if it is given, else as soon as they are.

    Args:
        app: What answers.
        most: Bytes.
    """

    def __init__(self, app: ASGIApp, most: int = MAX_BODY):
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            await self._drain(receive)
            await self._refuse(send)
            return
        taken, answered = 0, False

        async def count() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise _TooLarge
            return message

        async def note(message: Message) -> None:
            nonlocal answered
            answered = answered or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, count, note)
        except _TooLarge:
            if not answered:
                await self._refuse(send)

    async def _drain(self, receive: Receive) -> None:
        """Lets the sender finish within reason: one that is cut off in mid-sentence does not read the answer."""
        left = 4 * self._most
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return

    async def _refuse(self, send: Send) -> None:
        await refuse(send, 413, f"the file is too large: at most {self._most // 2**20} MB are taken")


class PageHeaders:
    """Headers for browsers: threads for the decoder, no guessing of types, caching of what does not change.

    Cross-origin isolation is what lets WebAssembly use threads; in somebody else's frame it does not come about, and
    the page does with one.

    Args:
        app: What answers.
        static: Address under which our own files are.
    """

    def __init__(self, app: ASGIApp, static: str):
        self._app, self._static = app, static

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Embedder-Policy"] = "require-corp"
                # A Space is shown in a frame of the Hub's.
                headers["Cross-Origin-Resource-Policy"] = "cross-origin" if on_space() else "same-origin"
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                if message["status"] == 200 and self._caching(scope["path"]) is not None:
                    headers["Cache-Control"] = self._caching(scope["path"])
            await send(message)

        await self._app(scope, receive, add)

    def _caching(self, path: str) -> str | None:
        if path.startswith(f"{self._static}/vendor/"):
            return "public, max-age=604800"
        if path.startswith(f"{self._static}/"):
            return "no-cache"  # asked about each time, sent again only if it has changed
        if "/file=" in path:
            return "private, max-age=3600"
        return None


class _TooLarge(Exception):
    pass


async def no_such_endpoint(request: Request, error: Exception) -> JSONResponse:
    """Answers a call of what is not there; Gradio lets it end in an error of the server."""
    return JSONResponse({"detail": "there is no such endpoint"}, 404)


async def other_arguments(request: Request, error: Exception) -> JSONResponse:
    """Answers a call with arguments that the endpoint does not have."""
    return JSONResponse({"detail": "the endpoint has other arguments; /gradio_api/openapi.json lists them"}, 422)


async def refuse(send: Send, status: int, sentence: str) -> None:
    """Answers with a status and a sentence, as FastAPI's errors look."""
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def trusted_hosts(host: str, allowed: Iterable[str] = ()) -> list[str]:
    """The names that a server answers to.

    Args:
        host: What it listens on.
        allowed: Further names.
    """
    names = [*LOOPBACK, *([] if host in ("0.0.0.0", "::") else [host]), *allowed]
    if on_space():  # behind the Hub's proxy
        names += os.environ["SPACE_HOST"].split(",") + ["*.hf.space"]
    return list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))


def on_space() -> bool:
    """Whether this is a Space of the Hub."""
    return bool(os.environ.get("SPACE_HOST"))


def middleware(host: str, static: str, allowed: Iterable[str] = ()) -> list[Middleware]:
    """All of this module, outermost first."""
    return [
        Middleware(TrustedHosts, hosts=trusted_hosts(host, allowed), any_address=not _is_loopback(host)),
        Middleware(PageHeaders, static=static),
        Middleware(BodyLimit),
    ]


def launch_options(host: str, port: int | None, static: str, allowed: Iterable[str] = (), **more: Any) -> dict:
    """Arguments for `gr.Blocks.launch`: closed unless opened.

    Args:
        host: What to listen on.
        port: Where; None: Gradio's own choice.
        static: Address of our own files.
        allowed: Further host names that are ours.
        **more: Further arguments, such as `mcp_server`.
    """
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "show_error": False,  # sentences of gr.Error are shown all the same
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": MAX_BYTES,
        "allowed_paths": [],
        "state_session_capacity": 256,
        "mcp_server": False,
        "app_kwargs": {
            "middleware": middleware(host, static, allowed),
            "exception_handlers": {
                FnIndexInferError: no_such_endpoint,
                KeyError: no_such_endpoint,
                TypeError: other_arguments,
            },
        },
        **more,
    }


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
