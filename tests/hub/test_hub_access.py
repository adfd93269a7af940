"""The question to the Hub before loading: no token is ever quoted, and what answers in its place is no Hub."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi, constants

from sam_hf import SamModel, SamProcessor
from sam_hf.hub.publishing import publish
from sam_hf.hub.upload import upload
from sam_hf.model.hub_access import read_token, scrubbed

SECRET = "hf_SECRET"


@pytest.fixture
def answers(monkeypatch):
    """A server that says the same to everything; `answers.append((code, body))` changes it. Headers are kept."""
    said = [(200, b"<!DOCTYPE html><title>Log in</title>")]

    class Portal(BaseHTTPRequestHandler):
        def do_GET(self):
            said.append(self.headers.get("Authorization"))
            code, body = said[0]
            self.send_response(code)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Portal)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield said
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(plain_checkpoint, tmp_path):
    """A cache that holds all of org/sam."""
    place = tmp_path / "cache" / "models--org--sam"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    snapshot = place / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for path in plain_checkpoint.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    return tmp_path / "cache"


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><title>Log in</title>", b"[]", b"{}", b"\xff\xfe"])
def test_a_page_of_the_network_is_not_the_hub(body, answers, cache, tmp_path, caplog):
    answers[0] = (200, body)
    assert SamModel.from_pretrained("org/sam", cache_dir=cache) is not None
    assert SamProcessor.from_pretrained("org/sam", cache_dir=cache) is not None
    assert "is loaded from the cache" in caplog.text
    with pytest.raises(OSError, match="org/sam.*cannot be reached.*not the Hub.*no copy"):
        SamModel.from_pretrained("org/sam", cache_dir=tmp_path / "empty")


@pytest.mark.parametrize("token", [f"{SECRET}\n", f" {SECRET}\r\n"])
def test_white_space_around_a_token_is_no_part_of_it(token, answers, tmp_path):
    answers[0] = (503, b"")
    with pytest.raises(OSError, match="503") as caught:
        SamModel.from_pretrained("org/sam", cache_dir=tmp_path, token=token)
    assert answers[1] == f"Bearer {SECRET}" and SECRET not in str(caught.value)


@pytest.mark.parametrize("token", [f"hf\n{SECRET}", f"{SECRET} x", f"{SECRET}\u00e9", f"{SECRET}\0", "", "\n"])
def test_what_cannot_be_a_token_is_not_quoted(token, answers, plain_checkpoint, tmp_path):
    for ask in (
        lambda: SamModel.from_pretrained("org/sam", cache_dir=tmp_path, token=token),
        lambda: SamProcessor.from_pretrained("org/sam", cache_dir=tmp_path, token=token),
        lambda: publish(plain_checkpoint, "org/sam", token=token, dry_run=True),
        lambda: SamModel.from_pretrained(plain_checkpoint).push_to_hub("org/sam", token=token),
    ):
        with pytest.raises(ValueError, match="^token: expected") as caught:
            ask()
        assert SECRET not in str(caught.value)
    assert len(answers) == 1  # nothing was sent


def test_reasons_are_quoted_without_the_token(plain_checkpoint):
    said = f"Illegal header value b'Bearer {SECRET}' of {SECRET}"
    assert scrubbed(said, f"{SECRET}\n") == "Illegal header value b'Bearer ***' of ***"
    assert scrubbed(f'{{"authorization": "bearer {SECRET}"}}') == '{"authorization": "bearer ***"}'
    assert read_token(None) is None and read_token(False) is False

    class Broken(HfApi):
        def create_repo(self, *args, **kwargs):
            raise RuntimeError(said)

    words = {"private": None, "revision": None, "create_pr": False, "message": "m", "description": None}
    with pytest.raises(OSError, match="the connection to .* failed") as caught:
        upload(Broken(token=SECRET), plain_checkpoint, "org/sam", code=[], **words)
    assert SECRET not in str(caught.value)


def test_processor_files_name_the_registered_class(text_checkpoint, tmp_path):
    """transformers before 5.23 looks for the name of the class before it looks at code or at the model's type."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    SamProcessor.from_pretrained(text_checkpoint).save_pretrained(tmp_path)
    parts = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    alone = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert parts["image_processor_type"] == alone["image_processor_type"] == "SamHfImageProcessor"
    assert get_image_processor_class_from_name("SamHfImageProcessor").__module__.startswith("sam_hf.")
    for backend in ("torchvision", "pil"):
        (tmp_path / "config.json").write_text((text_checkpoint / "config.json").read_text())
        loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        assert type(loaded).__name__ == "SamHfImageProcessor" + ("Pil" if backend == "pil" else "")
