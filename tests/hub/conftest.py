"""A stand-in for the Hub on loopback, and clients of it in processes of their own.

It speaks what huggingface_hub calls for create, preupload, LFS, commit, branches, pull requests, listings and resolve,
with the real Hub's status codes, error codes and headers; xet is switched off in the clients. Faults are set by name.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOKENS = {"hf_writer": "write", "hf_reader": "read"}
LARGE = (".safetensors", ".onnx", ".png")


class Hub:
    """Repositories in memory; `faults` changes what happens to requests.

    Faults: "cut": {path: bytes}, the connection ends after so many; "hang": seconds before every
    answer; "status": {"METHOD path part": code}.
    """

    def __init__(self):
        self.repos: dict[str, dict] = {}  # id -> private, gated, refs {name: commit}, commits {oid: {path: content}}
        self.blobs: dict[str, bytes] = {}  # LFS, by SHA-256
        self.faults: dict = {}
        self.log: list[str] = []
        self.counted = 0  # entries of the log at the last look
        self.server = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after a `stop`, on the same port and with the same repositories."""
        self.server = Server(("127.0.0.1", self.port), Answers)
        self.server.hub = self
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a revision holds."""
        repo = self.repos[repo_id]
        return repo["commits"][repo["refs"].get(revision, revision)]

    def commit(self, repo_id: str, ref: str, files: dict[str, bytes]) -> str:
        """Put a ref onto a new commit."""
        repo = self.repos[repo_id]
        oid = hashlib.sha1(f"{repo_id} {ref} {len(repo['commits'])}".encode()).hexdigest()
        repo["commits"][oid] = files
        repo["refs"][ref] = oid
        return oid


class Server(ThreadingHTTPServer):
    """A client that hangs up in the middle is no news."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Answers(BaseHTTPRequestHandler):
    """One request at a time, by the first of `ROUTES` that fits."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self) -> None:
        self.hub: Hub = self.server.hub
        self.path_only = urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.command != "HEAD" else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        if self.hub.server is None:  # stopped; this connection was kept from before
            self.close_connection = True
            return None
        self.hub.log.append(f"{self.command} {self.path_only}")
        if self.path_only == "/control":
            return self._control()
        time.sleep(self.hub.faults.get("hang", 0))
        for request, code in self.hub.faults.get("status", {}).items():
            method, _, part = request.partition(" ")
            if method == self.command and part in self.path_only:
                return self._fail(code, message=f"fault {code}")
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, self.path_only)
            if method == self.command.replace("HEAD", "GET") and found:
                return getattr(self, name)(*(part and unquote(part) for part in found.groups()))
        self._fail(404, message=f"the stand-in has no {self.command} {self.path_only}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    # --- sending -------------------------------------------------------------------------------------------------

    def _send(self, code: int, content: bytes = b"", headers: dict | None = None) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content, code: int = 200) -> None:
        self._send(code, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _fail(self, code: int, error: str | None = None, message: str = "no") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": error} if error else {})
        self._send(code, json.dumps({"error": message}).encode(), headers | {"Content-Type": "application/json"})

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # --- who may -------------------------------------------------------------------------------------------------

    def _right(self) -> str | None:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _may_write(self) -> bool:
        right = self._right()
        if right is None:
            self._fail(401, message="Invalid username or password.")
        elif right != "write":
            self._fail(403, message="You don't have the rights to write here")
        return right == "write"

    def _repo(self, repo_id: str, revision: str | None = None) -> dict | None:
        """A repository that the caller may see, with `oid` of the revision; None once it has been refused."""
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo["private"] and self._right() is None):
            self._fail(404 if self._right() else 401, "RepoNotFound", "Repository not found")
            return None
        if revision is not None and revision not in repo["refs"] and revision not in repo["commits"]:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo | {"oid": repo["refs"].get(revision or "main", revision)}

    # --- writing -------------------------------------------------------------------------------------------------

    def create(self) -> None:
        asked = json.loads(self.body)
        if not self._may_write():
            return
        repo_id = f"{asked.get('organization') or 'writer'}/{asked['name']}"
        if repo_id in self.hub.repos:
            return self._json(
                {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo_id}"}, 409
            )
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[repo_id] = {"private": private, "gated": False, "refs": {}, "commits": {}, "pulls": 0}
        self.hub.commit(repo_id, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": repo_id})

    def branch(self, repo_id: str, name: str) -> None:
        repo = self._repo(repo_id) if self._may_write() else None
        if repo is None:
            return
        if name in repo["refs"]:
            return self._json({"error": "Reference already exists"}, 409)
        repo["refs"][name] = repo["refs"]["main"]
        self._json({}, 201)

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, revision) if self._may_write() else None
        if repo is None:
            return
        present = repo["commits"][repo["oid"]]
        self._json({"files": [self._mode(file, present) for file in json.loads(self.body)["files"]]})

    def _mode(self, file: dict, present: dict[str, bytes]) -> dict:
        mode = "lfs" if file["path"].endswith(LARGE) else "regular"
        oid = _oid(file["path"], present[file["path"]]) if file["path"] in present else None
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False} | ({"oid": oid} if oid else {})

    def lfs_batch(self, repo_id: str) -> None:
        if not self._may_write():
            return
        objects = []
        for entry in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}
            actions["verify"] = {"href": f"{self.hub.url}/lfs-verify"}
            objects.append(entry if entry["oid"] in self.hub.blobs else entry | {"actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._fail(400, message="content does not match its SHA-256")
        self.hub.blobs[oid] = self.body
        self._send(200)

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        good = len(self.hub.blobs.get(asked["oid"], b"")) == asked["size"]
        self._json({}) if good else self._fail(404)

    def commit(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, revision) if self._may_write() else None
        if repo is None:
            return
        files = dict(repo["commits"][repo["oid"]])
        for line in self.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self._fail(400, message=f"LFS object {value['oid']} was never uploaded")
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return self._fail(404, "EntryNotFound", "A file with this name doesn't exist")
        ref, pull = revision, None
        if "create_pr=1" in self.path:
            self.hub.repos[repo_id]["pulls"] += 1
            number = self.hub.repos[repo_id]["pulls"]
            ref, pull = f"refs/pr/{number}", f"{self.hub.url}/{repo_id}/discussions/{number}"
        oid = self.hub.commit(repo_id, ref, files)
        page = f"{self.hub.url}/{repo_id}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": page, "pullRequestUrl": pull})

    def validate_yaml(self) -> None:
        self._json({"warnings": [], "errors": []})

    # --- reading -------------------------------------------------------------------------------------------------

    def info(self, repo_id: str, revision: str | None = None) -> None:
        repo = self._repo(repo_id, revision)
        if repo is not None:
            files = [self._sibling(*file) for file in sorted(repo["commits"][repo["oid"]].items())]
            fixed = {"downloads": 0, "likes": 0, "tags": [], "spaces": [], "disabled": False, "gated": repo["gated"]}
            self._json(fixed | {"id": repo_id, "sha": repo["oid"], "private": repo["private"], "siblings": files})

    def _sibling(self, name: str, content: bytes) -> dict:
        if "blobs=" not in self.path or not name.endswith(LARGE):
            return {"rfilename": name}
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest(), "lfs": lfs}

    def tree(self, repo_id: str, revision: str, below: str | None) -> None:
        repo = self._repo(repo_id, revision)
        if repo is None:
            return
        if below:  # no repository here has folders that anybody lists
            return self._fail(404, "EntryNotFound", f"{below} does not exist on {revision}")
        entries = []
        for name, content in sorted(repo["commits"][repo["oid"]].items()):
            entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self._repo(repo_id, revision)
        if repo is None:
            return
        if repo["gated"] and self._right() is None:
            return self._fail(401, "GatedRepo", f"Access to model {repo_id} is restricted")
        content = repo["commits"][repo["oid"]].get(name)
        headers = {"X-Repo-Commit": repo["oid"], "ETag": f'"{_oid(name, content or b"")}"', "Accept-Ranges": "bytes"}
        if content is None:
            self._send(404, b"", {"X-Repo-Commit": repo["oid"], "X-Error-Code": "EntryNotFound"})
        elif name.endswith(LARGE):
            oid = hashlib.sha256(content).hexdigest()
            self.hub.blobs[oid] = content
            place = {"Location": f"http://localhost:{self.hub.port}/cdn/{oid}/{name}"}  # another host, as the Hub's
            self._send(302, b"", headers | place | {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{oid}"'})
        else:
            self._content(name, content, headers)

    def cdn(self, oid: str, name: str) -> None:
        self._content(name, self.hub.blobs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _content(self, name: str, content: bytes, headers: dict) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        code = 206 if asked else 200
        if asked:
            last = min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers = headers | {"Content-Range": f"bytes {asked[1]}-{last}/{len(content)}"}
            content = content[int(asked[1]) : last + 1]
        cut = self.hub.faults.get("cut", {}).get(name)
        if cut is None or self.command == "HEAD":
            return self._send(code, content, headers)
        self._send(code, content[:cut], headers | {"Content-Length": str(len(content))})
        self.close_connection = True

    def _control(self) -> None:
        asked = json.loads(self.body)
        self.hub.faults = asked.get("faults", self.hub.faults)
        for oid in asked.get("forget", ()):
            self.hub.blobs.pop(oid, None)
        for repo_id, changes in asked.get("repos", {}).items():
            self.hub.repos[repo_id].update(changes)
        heard, self.hub.counted = self.hub.log[self.hub.counted : -1], len(self.hub.log)
        files = {repo_id: sorted(self.hub.files(repo_id)) for repo_id in self.hub.repos}
        commits = {repo_id: repo["refs"]["main"] for repo_id, repo in self.hub.repos.items()}
        self._json({"heard": heard, "files": files, "commits": commits})
        if asked.get("stop"):
            self.close_connection = True
            threading.Thread(target=self.hub.stop).start()


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("POST", rf"/api/models/{REPO}/branch/([^/]+)", "branch"),
    ("POST", rf"/api/models/{REPO}/preupload/([^/]+)", "preupload"),
    ("POST", rf"/api/models/{REPO}/commit/([^/]+)", "commit"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(\w+)", "lfs_put"),
    ("POST", "/lfs-verify", "lfs_verify"),
    ("GET", rf"/api/models/{REPO}", "info"),
    ("GET", rf"/api/models/{REPO}/revision/([^/]+)", "info"),
    ("GET", rf"/api/models/{REPO}/tree/([^/]+)(?:/(.+))?", "tree"),
    ("GET", rf"/{REPO}/resolve/([^/]+)/(.+)", "resolve"),
    ("GET", r"/cdn/(\w+)/(.+)", "cdn"),
)


def _oid(name: str, content: bytes) -> str:
    """Git's name of a blob, or LFS' of a large file: what the Hub compares and what its ETags are."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@pytest.fixture(scope="session")
def hub():
    """The stand-in, running."""
    running = Hub()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def run_client(hub, tmp_path_factory):
    """run_client(steps, home, blocked=(), **words): what each step of a file in this folder gave, or its error."""

    def run(steps: str, home: str = "home", blocked: tuple[str, ...] = (), **words) -> dict:
        place = tmp_path_factory.getbasetemp() / f"client-{home}"
        place.mkdir(exist_ok=True)
        root = Path(__file__).parents[2]
        # No GPU, no xet, short patience; hf's own variables of this process do not reach the client.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "NO_PROXY": "127.0.0.1,localhost"}
        environment |= {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        environment["PYTHONPATH"] = "" if "sam_hf" in blocked else str(root)
        asked = json.dumps({"blocked": blocked, "place": str(place), "hub": hub.url, **words})
        ran = subprocess.run(
            [sys.executable, str(Path(__file__).parent / steps), asked],
            env=environment,
            cwd=place,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=900,
        )
        lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT ")]
        assert ran.returncode == 0 and lines, ran.stdout[-3000:] + ran.stderr[-6000:]
        return json.loads(lines[-1].removeprefix("RESULT "))

    return run


@pytest.fixture(scope="session")
def mobile_checkpoint(tmp_path_factory):
    """Folder of a random SAM with a TinyViT encoder (model_type "sam_hf", no text branch), input 64 px."""
    import torch

    from sam_hf import SamConfig, SamImageProcessor, SamModel, SamProcessor

    folder = tmp_path_factory.mktemp("mobile-sam")
    vision = {"model_type": "sam_tiny_vit", "embed_dims": [8, 16], "depths": [1, 1], "num_heads": [1, 2]}
    vision |= {"window_sizes": [7, 4], "strides": [2], "image_size": 64, "output_channels": 16, "num_pos_feats": 8}
    decoder = {"mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SamModel(SamConfig(vision_config=vision, mask_decoder_config=decoder)).save_pretrained(folder)
    square, low = {"height": 64, "width": 64}, {"height": 32, "width": 32}
    images = SamImageProcessor(
        size={"longest_edge": 64}, pad_size=square, mask_size={"longest_edge": 32}, mask_pad_size=low
    )
    SamProcessor(images).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def owner(hub, run_client, plain_checkpoint, text_checkpoint, mobile_checkpoint):
    """Results of `client_owner`, and what it left in the stand-in."""
    folders = {"text": str(text_checkpoint), "plain": str(plain_checkpoint), "mobile": str(mobile_checkpoint)}
    before = len(hub.log)
    results = run_client("client_owner.py", **folders)
    results["log"] = hub.log[before:]
    hub.faults.clear()
    hub.start()
    return results


@pytest.fixture(scope="session")
def stranger_without_open_clip(owner, run_client):
    """Results of `client_stranger`, which cannot import this package."""
    return run_client("client_stranger.py", home="stranger", blocked=("sam_hf", "open_clip"))


@pytest.fixture(scope="session")
def stranger_with_open_clip(owner, run_client):
    """The same with open_clip, and without what has nothing to do with it."""
    return run_client("client_stranger.py", home="stranger_with_clip", blocked=("sam_hf",), short=True)


@pytest.fixture(scope="session")
def compare():
    """compare(ours, theirs): asserts that two files of `client_steps.answers_of` agree; the kinds of prompts in both.

    The largest deviation may be 1e-5 of the largest logit or score: float32 is added up in another order where memory
    is aligned otherwise, as it is in another process, or by weights in several files.
    """
    import numpy as np

    def agree(ours: str, theirs: str) -> set[str]:
        with np.load(ours) as expected, np.load(theirs) as found:
            assert set(found.files) <= set(expected.files)
            for name in found.files:
                assert found[name].shape == expected[name].shape and np.isfinite(found[name]).all(), name
                deviation = np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
                assert deviation <= 1e-5, f"{name}: {deviation:.1e}"
            return {name.split(", ")[0] for name in found.files}

    return agree


@pytest.fixture(params=["without_open_clip", "with_open_clip"])
def stranger(request):
    """Either of the two."""
    return request.getfixturevalue(f"stranger_{request.param}")
