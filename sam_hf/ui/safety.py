"""What stands between the app and strangers: which hosts it answers to, how much it takes, what browsers may do.

A page anywhere can make its visitors' browsers ask 127.0.0.1, under a name of its own that it points there (DNS
rebinding): so a request is answered only if it came for a name that is ours, and a writing one only if it came from a
page of ours.
"""

import ipaddress
import json
import logging
import os
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio.route_utils import FnIndexInferError
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sam_hf.ui.answers import FAILED
from sam_hf.ui.reading import MAX_BYTES
from sam_hf.ui.served_files import FULL, has_room
from sam_hf.ui.static_files import STATIC_URL, CompressedFiles

logger = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A form around the file, and JSON with the masks of many objects.
MAX_BODY = MAX_BYTES + 2**16
READING = ("GET", "HEAD", "OPTIONS")
OTHER_SITE = (
    "requests from pages of other sites are not answered; if the page is yours, start the app with --allowed-host and "
    "its host (a Space, or app.py: SAM_HF_ALLOWED_HOSTS)"
)


class TrustedHosts:
    """Answers only requests for known hosts, and writing ones only from pages of known hosts.

    Args:
        app: What answers.
        hosts: Names, without port; "*.example.org" for all below; "*" for all.
        any_address: Whether addresses (not names) are fine: nobody can point those elsewhere.
        pages: Of these hosts, with or without port, pages may write too, as behind a proxy that changes the host.
            Otherwise a page must come from the very host and port that it writes to: others on this machine may be
            anybody's.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], any_address: bool = False, pages: Sequence[str] = ()):
        self._app, self._hosts, self._any_address = app, [host.lower() for host in hosts], any_address
        self._pages = [page.lower() for page in pages]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._is_known(headers.get("host", "")):
            await refuse(
                send,
                400,
                "this server does not answer to that host name; see --allowed-host, or SAM_HF_ALLOWED_HOSTS of app.py",
            )
            return
        origin = headers.get("origin")
        writes = scope["type"] == "websocket" or scope["method"] not in READING
        if writes and origin is not None and not self._may_write(origin, headers.get("host", "")):
            await refuse(send, 403, OTHER_SITE)
            return
        await self._app(scope, receive, send)

    def _may_write(self, origin: str, host: str) -> bool:
        try:
            page = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return bool(page) and (page == host.lower() or page in self._pages or _is_one_of(_name(page), self._pages))

    def _is_known(self, host: str) -> bool:
        name = _name(host)
        return _is_one_of(name, self._hosts) or (self._any_address and _is_address(name))


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
        if scope["path"].endswith("/upload") and not has_room(int(length) if length.isdigit() else self._most):
            await self._drain(receive)
            await refuse(send, 507, FULL)
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
    """Headers for browsers: threads for the decoder, no guessing of types, how long files may be kept.

    Cross-origin isolation is what lets WebAssembly use threads; in somebody else's frame it does not come about, and
    the page does with one.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

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
                if message["status"] in (200, 304) and self._caching(scope["path"]) is not None:
                    headers["Cache-Control"] = self._caching(scope["path"])
            await send(message)

        await self._app(scope, receive, add)

    def _caching(self, path: str) -> str | None:
        if path.startswith(f"{STATIC_URL}/"):
            return "no-cache"  # asked about each time, sent again only if it has changed
        if "/file=" in path:
            return "private, max-age=3600"
        return None


class _TooLarge(Exception):
    pass


async def wrong_call(request: Request, error: Exception) -> JSONResponse:
    """Answers calls of endpoints, or with arguments, that are not there; Gradio makes an error of the server of them.

    They are known by where they are raised. Any other error is ours: it is logged.
    """
    called, raised = "/call/" in request.url.path, _raised_in(error)
    if isinstance(error, FnIndexInferError) or (
        isinstance(error, KeyError) and called and raised[0] == ("gradio", "routes.py")
    ):
        return JSONResponse({"detail": "there is no such endpoint"}, 404)
    if isinstance(error, TypeError) and called and raised == (("gradio_client", "utils.py"), "construct_args"):
        return JSONResponse({"detail": "the endpoint has other arguments; /gradio_api/openapi.json lists them"}, 422)
    logger.error("%s failed", request.url.path, exc_info=error)
    return JSONResponse({"detail": FAILED}, 500)


def _raised_in(error: Exception) -> tuple[tuple[str, ...], str]:
    """Last two parts of the file, and the function, where an error was raised."""
    code = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    return Path(code.co_filename).parts[-2:], code.co_name


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
        allowed: Further names, of which ports do not count.
    """
    names = [*LOOPBACK, *([] if host in ("0.0.0.0", "::") else [host]), *map(_name, allowed), *_space_hosts()]
    return list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))


def _space_hosts() -> list[str]:
    """What a Space is called behind the Hub's proxy."""
    return os.environ["SPACE_HOST"].split(",") + ["*.hf.space"] if on_space() else []


def on_space() -> bool:
    """Whether this is a Space of the Hub."""
    return bool(os.environ.get("SPACE_HOST"))


def middleware(host: str, allowed: Iterable[str] = ()) -> list[Middleware]:
    """All of this module, and compression; outermost first."""
    hosts, pages = trusted_hosts(host, allowed), [*allowed, *_space_hosts()]
    return [
        Middleware(TrustedHosts, hosts=hosts, any_address=not _is_loopback(host), pages=pages),
        Middleware(PageHeaders),
        Middleware(CompressedFiles),
        Middleware(BodyLimit),
    ]


def launch_options(host: str, port: int | None, allowed: Iterable[str] = (), **more: Any) -> dict:
    """Arguments for `gr.Blocks.launch`: closed unless opened.

    Args:
        host: What to listen on.
        port: Where; None: Gradio's own choice.
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
            "middleware": middleware(host, allowed),
            "exception_handlers": dict.fromkeys((FnIndexInferError, KeyError, TypeError), wrong_call),
        },
        **more,
    }


def _name(host: str) -> str:
    """The name of a host, without port; empty where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_one_of(name: str, known: Iterable[str]) -> bool:
    return any(one in ("*", name) or (one.startswith("*.") and name.endswith(one[1:])) for one in known)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
