"""The page's own files: where they are, and the vendored ones compressed: 14 MB of WebAssembly arrive as 3.5.

What a browser has already is not sent again (`ETag`).
"""

import gzip
import hashlib
import threading
from pathlib import Path

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC = Path(__file__).resolve().parent / "static"
STATIC_URL = f"/gradio_api/file={STATIC.as_posix()}"
TYPES = {".wasm": "application/wasm", ".mjs": "text/javascript", ".js": "text/javascript"}


class CompressedFile:
    """One file, compressed once, and again where it has changed."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._changed: int | None = None  # when, as of the content that is kept

    def read(self) -> tuple[bytes, str]:
        """Its content as gzip, and a tag that names it; several who ask at once wait for the first."""
        with self._lock:
            changed = self.path.stat().st_mtime_ns
            if changed != self._changed:
                plain = self.path.read_bytes()
                self._content = gzip.compress(plain, 6, mtime=0)
                self._tag = f'"{hashlib.blake2b(plain, digest_size=16).hexdigest()}-gzip"'
                self._changed = changed
            return self._content, self._tag


class CompressedFiles:
    """Answers requests for the vendored code.

    Args:
        app: What answers everything else, requests for a part of a file among them.
    """

    def __init__(self, app: ASGIApp):
        self._app = app
        self._files = {
            f"{STATIC_URL}/{path.relative_to(STATIC).as_posix()}": CompressedFile(path)
            for path in (STATIC / "vendor").iterdir()
            if path.suffix in TYPES
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        file = self._files.get(scope["path"])
        if file is None or "range" in headers or not _takes_gzip(headers.get("accept-encoding", "")):
            return await self._app(scope, receive, send)
        content, tag = await to_thread.run_sync(file.read)
        about = {"ETag": tag, "Vary": "Accept-Encoding"}
        if tag in headers.get("if-none-match", ""):
            response = Response(status_code=304, headers=about)
        else:
            about |= {"Content-Encoding": "gzip"}
            response = Response(content, headers=about, media_type=TYPES[file.path.suffix])
        await response(scope, receive, send)


def _takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    for part in accepted.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
