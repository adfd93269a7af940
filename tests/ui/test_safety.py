"""What the app takes from strangers, and what it tells them."""

import os
import re
import time

import pytest

pytest.importorskip("gradio", reason="needs the extra `app`")
from sam_hf.ui.static_files import STATIC, STATIC_URL  # noqa: E402

FILE = "gradio_api/file="


# --- hosts and pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "", "[::1", "169.254.1.1"]
)
def test_requests_for_other_hosts_are_refused(web, host):
    got = web.get("/", headers={"Host": host})
    assert got.status_code == 400 and "host name" in got.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:7860", "[::1]:7860"])
def test_loopback_by_any_of_its_names(web, host):
    assert web.get("/config", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1.evil.example", "file://"])
def test_pages_of_others_cannot_write(web, origin):
    for path, sent in (
        ("gradio_api/call/v2/checkpoints", {"json": {}}),
        ("gradio_api/upload", {"files": {"files": b"x"}}),
    ):
        got = web.post(path, headers={"Origin": origin}, **sent)
        assert got.status_code == 403 and "other sites" in got.json()["detail"]


def test_a_page_of_another_port_of_this_machine_cannot_write(web, address):
    for origin in ("http://127.0.0.1:1", "http://localhost:3000", "http://localhost"):
        got = web.post("gradio_api/call/v2/checkpoints", json={}, headers={"Origin": origin})
        assert got.status_code == 403 and "--allowed-host" in got.json()["detail"]


@pytest.mark.parametrize(
    "allowed, origin, host, answers",
    [
        ([], "http://127.0.0.1:7860", "127.0.0.1:7860", True),
        ([], "http://LOCALHOST:7860", "localhost:7860", True),
        ([], "http://localhost:7861", "localhost:7860", False),
        ([], "https://sam.example", "127.0.0.1:7860", False),
        (["sam.example"], "https://sam.example", "127.0.0.1:7860", True),  # a proxy that changes the host
        (["localhost:3000"], "http://localhost:3000", "localhost:7860", True),
        (["localhost:3000"], "http://localhost:3001", "localhost:7860", False),
        (["*.example"], "https://a.example", "127.0.0.1:7860", True),
        ([], "http://[::1", "127.0.0.1:7860", False),
    ],
)
def test_whose_pages_may_write(allowed, origin, host, answers):
    from sam_hf.ui.safety import TrustedHosts, middleware

    (first, *_) = middleware("127.0.0.1", allowed)
    assert TrustedHosts(None, **first.kwargs)._may_write(origin, host) is answers


def test_our_own_page_can(web, address):
    got = web.post("gradio_api/call/v2/checkpoints", json={}, headers={"Origin": address.rstrip("/")})
    assert got.status_code == 200


@pytest.mark.parametrize(
    "host, allowed, asked, answers",
    [
        ("127.0.0.1", [], "192.168.1.7:7860", False),
        ("0.0.0.0", [], "192.168.1.7:7860", True),  # nobody can point an address elsewhere
        ("0.0.0.0", [], "my-machine", False),
        ("0.0.0.0", ["my-machine"], "my-machine:7860", True),
        ("127.0.0.1", ["*.example.org"], "a.example.org", True),
        ("127.0.0.1", ["*.example.org"], "example.org.evil.example", False),
        ("127.0.0.1", ["*.example.org"], "evilexample.org", False),
    ],
)
def test_which_hosts_are_ours(host, allowed, asked, answers):
    from sam_hf.ui.safety import TrustedHosts, middleware

    (first, *_) = middleware(host, allowed)
    assert first.cls is TrustedHosts
    assert TrustedHosts(None, **first.kwargs)._is_known(asked) is answers


def test_a_space_answers_to_its_own_host(monkeypatch):
    from sam_hf.ui.safety import trusted_hosts

    assert "someone-sam.hf.space" not in trusted_hosts("0.0.0.0")
    monkeypatch.setenv("SPACE_HOST", "someone-sam.hf.space")
    assert "someone-sam.hf.space" in trusted_hosts("0.0.0.0")


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        f"{STATIC}/../blocks.py",
        f"{STATIC}/../../cli.py",
        f"{STATIC}/%2e%2e/blocks.py",
        f"{STATIC}",
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest/meta-data",
        "app.py",
        "pyproject.toml",
    ],
)
def test_no_file_but_ours_is_served(web, path):
    assert web.get(f"{FILE}{path}", follow_redirects=False).status_code in (403, 404)


def test_our_files_are_served_with_their_types_and_for_a_while(web):
    got = web.get(f"{STATIC_URL}/examples/feast.webp")
    assert got.status_code == 200 and got.headers["content-type"] == "image/webp" and got.headers["etag"]
    assert got.headers["cache-control"] == "no-cache"  # asked about again: it may be another version
    vendored = sorted(path.name for path in (STATIC / "vendor").iterdir())
    for name, kind in ((".wasm", "application/wasm"), (".mjs", "text/javascript")):
        file = next(one for one in vendored if one.endswith(name))
        got = web.get(f"{STATIC_URL}/vendor/{file}")
        assert got.headers["content-type"].split(";")[0] == kind and got.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("headers", "status", "encoding"),
    [
        ({"accept-encoding": "gzip, deflate, br"}, 200, "gzip"),
        ({"accept-encoding": "br;q=1.0, *;q=0.5"}, 200, "gzip"),
        ({"accept-encoding": "identity"}, 200, None),
        ({"accept-encoding": "gzip;q=0"}, 200, None),
        ({"accept-encoding": "gzip", "range": "bytes=0-9"}, 206, None),
    ],
)
@pytest.mark.parametrize("name", ["ort-wasm-simd-threaded.wasm", "ort.wasm.min.mjs"])
def test_vendored_code_arrives_compressed_where_that_is_understood(web, headers, status, encoding, name):
    got = web.get(f"{STATIC_URL}/vendor/{name}", headers=headers)
    assert (got.status_code, got.headers.get("content-encoding")) == (status, encoding)
    whole = (STATIC / "vendor" / name).read_bytes()
    assert got.content == (whole if status == 200 else whole[:10])


def test_what_a_browser_has_is_not_sent_again(web):
    one, another = (f"{STATIC_URL}/vendor/{name}" for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs"))
    known = {"if-none-match": web.get(one).headers["etag"]}
    again = web.get(one, headers=known)
    assert (again.status_code, again.content) == (304, b"") and again.headers["cache-control"] == "no-cache"
    other = web.get(another, headers=known)
    assert other.status_code == 200


def test_a_file_that_has_changed_is_compressed_again(tmp_path):
    import gzip

    from sam_hf.ui.static_files import CompressedFile

    (tmp_path / "page.js").write_text("one")
    file = CompressedFile(tmp_path / "page.js")
    before = file.read()
    assert file.read()[0] is before[0]
    (tmp_path / "page.js").write_text("two")
    os.utime(tmp_path / "page.js", ns=(1, 1))
    assert gzip.decompress(file.read()[0]) == b"two" and file.read()[1] != before[1]


def test_the_page_may_use_threads_and_guesses_no_types(web):
    for path in ("/", "/config", f"{STATIC_URL}/examples/feast.webp"):
        headers = web.get(path).headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_on_the_page_comes_from_other_servers(web):
    page = web.get("/").text
    sources = re.findall(r'(?:src|href)="(https?:)?//([^/"]+)', page)
    assert not {host for _, host in sources} - {"127.0.0.1", web.base_url.netloc.decode()}


def test_uploads_of_one_are_not_listed_for_another(web, upload, disc):
    file = upload(disc())
    folder = file["path"].rsplit("/", 2)[0]
    assert web.get(f"{FILE}{folder}").status_code in (403, 404)


def test_addresses_of_files_do_not_follow_from_what_is_in_them(app_folder):
    import hashlib

    from sam_hf.ui.served_files import serve

    content = b"a picture that somebody knows"
    first, second = serve(content, "a.bin"), serve(content, "a.bin")
    assert first["path"] == second["path"]
    for size in (16, 20, 32, 64):
        assert hashlib.blake2b(content, digest_size=size).hexdigest() not in first["path"]
    assert hashlib.sha256(content).hexdigest() not in first["path"]


def test_a_full_disk_is_said_to_be_full_and_frees_itself(web, call, upload, disc, monkeypatch):
    from sam_hf.ui import served_files

    picture = {"picture": call("embed", image=upload(disc()))["picture"]}
    monkeypatch.setattr(served_files, "MOST_BYTES", 1000)
    got = web.post("gradio_api/upload", files={"files": ("a.png", bytes(2000))})
    assert got.status_code == 507 and "no room" in got.json()["detail"]
    assert call("export", image=picture, format="npy") == f"error: {served_files.FULL}"
    assert call("segment", image=picture, points=[[60, 50]])["masks"]  # which needs no file
    monkeypatch.undo()
    assert call("export", image=picture, format="npy")["path"] and upload(disc())["path"]


# --- sizes and nonsense ---------------------------------------------------------------------------------------------


def test_more_than_twenty_megabytes_are_refused_in_a_sentence(web):
    got = web.post("gradio_api/upload", files={"files": ("a.png", bytes(21 * 2**20))})
    assert got.status_code == 413 and "at most 20 MB" in got.json()["detail"]


def test_a_body_of_unknown_length_is_counted(web):
    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(22):
            yield bytes(2**20)

    got = web.post("gradio_api/upload", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert got.status_code == 413


def test_just_below_the_bound_is_taken(upload):
    assert upload(bytes(20 * 2**20 - 1000))["path"]


@pytest.mark.parametrize(
    "content", [b"", b"{not json", b"[" * 100_000, b"null", b"3", b'{"data": 3}', b"\xff\xfe", b'{"image":' * 50_000]
)
@pytest.mark.parametrize("path", ["gradio_api/call/v2/segment", "gradio_api/call/segment", "gradio_api/queue/join"])
def test_nonsense_is_refused_at_once(web, path, content):
    start = time.monotonic()
    got = web.post(path, content=content, headers={"content-type": "application/json"})
    assert 400 <= got.status_code < 500 and time.monotonic() - start < 1


def test_other_arguments_are_refused_in_a_sentence(web):
    for sent in ({"data": 3}, {"image": {}, "colour": 1}, {"points": [[1, 1]]}):
        got = web.post("gradio_api/call/v2/segment", json=sent)
        assert got.status_code == 422 and "arguments" in got.json()["detail"]


@pytest.mark.parametrize("path", ["gradio_api/call/v2/nothing", "gradio_api/call/nothing"])
def test_unknown_endpoints_are_not_found(web, path):
    assert web.post(path, json={"data": []}).status_code == 404


def test_errors_of_the_server_are_not_taken_for_wrong_calls(caplog):
    import asyncio

    from starlette.requests import Request

    from sam_hf.ui.safety import wrong_call

    def answer(function, path="/gradio_api/call/segment"):
        try:
            function()
        except Exception as error:
            request = Request({"type": "http", "path": path, "headers": [], "query_string": b"", "server": ("a", 1)})
            return asyncio.run(wrong_call(request, error)).status_code

    for function in (lambda: {}["key"], lambda: len(3)):
        caplog.clear()
        assert answer(function) == 500 and "Traceback" in caplog.text


def test_the_queue_cannot_be_passed_by(web):
    assert web.post("gradio_api/run/segment", json={"data": [{}]}).status_code == 404


# --- what is told ---------------------------------------------------------------------------------------------------


def test_what_breaks_in_the_model_is_not_told_and_does_not_last(call, upload, disc, checkpoints, monkeypatch):
    picture = {"picture": call("embed", image=upload(disc()))["picture"]}
    predictor = checkpoints.get("tiny").predictor
    real = predictor.decode

    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error at /home/someone/kernel.cu:17, object at 0x7f00deadbeef")

    monkeypatch.setattr(predictor, "decode", broken)
    said = call("segment", image=picture, points=[[60, 50]])
    assert said.startswith("error: something went wrong") and "/home" not in said and "0x" not in said

    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(predictor, "decode", full)
    assert "not enough memory" in call("segment", image=picture, points=[[60, 50]])
    monkeypatch.setattr(predictor, "decode", real)
    assert len(call("segment", image=picture, points=[[60, 50]])["masks"]) == 3


def test_an_encoder_that_fails_leaves_the_queue_open(call, upload, disc, checkpoints, monkeypatch):
    predictor = checkpoints.get("tiny").predictor
    monkeypatch.setattr(type(predictor), "_encode", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert "not enough memory" in call("embed", image=upload(disc(color=(1, 2, 3))))
    monkeypatch.undo()
    assert call("embed", image=upload(disc(color=(1, 2, 3))))["stage"] == "ready"


def test_only_our_own_words_are_told():
    import pathlib

    from sam_hf.masks import rle
    from sam_hf.ui.answers import FAILED, NO_MEMORY, sentence

    def of(function):
        try:
            function()
        except Exception as error:
            return sentence(error)

    assert "rle" in of(lambda: rle.decode({}))  # ours
    assert of(lambda: int("/etc/passwd")) == FAILED  # Python's
    assert of(lambda: pathlib.Path("/nowhere/at/all").read_text()) == FAILED
    assert of(lambda: {}["key"]) == FAILED
    assert of(lambda: bytearray(10**15)) == NO_MEMORY


def test_a_checkpoint_that_does_not_load_does_not_stop_the_others(app_folder):
    from sam_hf.ui.checkpoints import Checkpoints, NotReady

    some = Checkpoints(["tiny", str(app_folder / "nowhere")], device="cpu").start()
    assert some.get("tiny").has_text
    with pytest.raises(NotReady, match="could not be loaded") as caught:
        some.get(some.names[1])
    assert "Errno" not in str(caught.value)
    assert [one["state"] for one in some.describe()] == ["ready", "failed"]


def test_names_from_requests_are_looked_up_and_never_opened(checkpoints, plain_checkpoint):
    for name in (str(plain_checkpoint) + "/", "../tiny", "facebook/sam-vit-base", 3, ["tiny"], {"a": 1}):
        with pytest.raises(ValueError, match="checkpoint"):
            checkpoints.get(name)


WRONG_SETTINGS = [
    ({"sources": []}, "sources"),
    ({"sources": ["tiny", "tiny"]}, "different"),
    ({"device": "gpu"}, "device"),
    ({"dtype": "int8"}, "dtype"),
]


@pytest.mark.parametrize("arguments, words", WRONG_SETTINGS)
def test_wrong_settings_are_refused_before_anything_is_loaded(arguments, words):
    from sam_hf.ui.checkpoints import Checkpoints

    with pytest.raises(ValueError, match=words):
        Checkpoints(**arguments)


def test_the_app_is_closed_unless_opened():
    from sam_hf.ui.app_command import parser
    from sam_hf.ui.safety import launch_options

    options = parser().parse_args([])
    assert (options.host, options.mcp) == ("127.0.0.1", False)
    given = launch_options(options.host, None)
    assert given["share"] is False and given["run_history"] is False and given["show_error"] is False
    assert given["mcp_server"] is False and given["allowed_paths"] == [] and given["max_file_size"] == 20 * 2**20


def test_the_api_is_described(web):
    info = web.get("gradio_api/info").json()["named_endpoints"]
    names = {
        "checkpoints",
        "decoder",
        "embed",
        "segment",
        "phrase",
        "refine",
        "segment_text",
        "everything",
        "export",
        "replay",
    }
    assert {f"/{name}" for name in names} == set(info)
    for name in sorted(names):
        assert len(info[f"/{name}"].get("description") or "") > 30, name


def test_texts_with_markup_stay_text(call, upload, disc):
    picture = {"picture": call("embed", image=upload(disc(), "<script>alert(1)</script>.png"))["picture"]}
    (answer,) = call("segment_text", image=picture, phrases=["<img src=x onerror=alert(1)>"])
    assert answer["phrase"] == "<img src=x onerror=alert(1)>"
