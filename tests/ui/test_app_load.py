"""Several people at once: everybody gets their own, nobody waits for another's picture, and full is said to be full.

The large runs (20 and 50 users, 1,000 requests, 200 at once) are benchmarks/app_load.py.
"""

import asyncio
import threading
import time

import app_load
import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs the extra `app`")
from sam_hf.masks import rle  # noqa: E402


@pytest.fixture
def held(checkpoints, monkeypatch):
    """Encoding, held until it is let go."""
    predictor, let_go, begun = checkpoints.get("tiny").predictor, threading.Event(), threading.Event()
    real = type(predictor)._encode

    def encode(self, *arguments):
        begun.set()
        assert let_go.wait(60)
        return real(self, *arguments)

    monkeypatch.setattr(type(predictor), "_encode", encode)
    let_go.begun = begun
    yield let_go
    let_go.set()


def test_everybody_gets_their_own_mask(app, address):
    tally = asyncio.run(app_load.crowd(address, 8, 2))
    assert tally.errors == [] and tally.busy == [] and tally.mixed == 0
    assert len(tally.whole) == 16


def test_two_who_click_by_turns_keep_their_pictures(call, upload):
    people = [app_load.disc(number) for number in (1, 2)]
    opened = [{"picture": call("embed", image=upload(content))["picture"]} for content, _, _ in people]
    for _ in range(3):
        for picture, (_, mask, centre) in zip(opened, people, strict=True):
            answer = call("segment", image=picture, points=[centre])
            found = rle.decode(answer["masks"][answer["selected"]]["rle"])
            assert np.logical_and(found, mask).sum() > 0.7 * np.logical_or(found, mask).sum()


def test_a_click_does_not_wait_for_another_persons_encoding(app, call, client, upload, disc, held):
    held.set()
    picture = {"picture": call("embed", image=upload(disc()))["picture"]}
    held.clear()
    held.begun.clear()
    job = client.submit(image=upload(disc(color=(9, 9, 9))), api_name="/embed")
    assert held.begun.wait(30)
    for endpoint, arguments in (
        ("segment", {"image": picture, "points": [[60, 50]]}),
        ("phrase", {"text": "a disc"}),
        ("checkpoints", {}),
    ):
        assert isinstance(call(endpoint, **arguments), dict)
    assert not job.done()
    held.set()
    assert job.result()["stage"] == "ready"


def test_pictures_that_are_known_do_not_wait_for_others_to_be_encoded(app, call, client, upload, disc, held):
    held.set()
    known = disc(color=(1, 2, 250))
    first = call("embed", image=upload(known))
    held.clear()
    held.begun.clear()
    jobs = [client.submit(image=upload(disc(color=(3, number, 9))), api_name="/embed") for number in range(3)]
    assert held.begun.wait(30)
    again = call("embed", image=upload(known))
    assert again["stage"] == "ready" and again["embedding"]["path"] == first["embedding"]["path"]
    assert not any(job.done() for job in jobs)
    held.set()
    assert [job.result()["stage"] for job in jobs] == ["ready"] * 3


def test_a_picture_is_decoded_once(app, call, upload, disc, monkeypatch):
    from sam_hf.ui import reading

    real, decoded = reading.decode, []
    monkeypatch.setattr(reading, "decode", lambda content: decoded.append(1) or real(content))
    assert call("embed", image=upload(disc(color=(50, 60, 70))))["stage"] == "ready"
    assert len(decoded) == 1


def test_a_checkpoint_that_is_being_loaded_keeps_nobody_else_waiting(app_folder, upload, disc, monkeypatch):
    from gradio_client import Client

    from sam_hf.inference.predictor import SamPredictor
    from sam_hf.ui.blocks import build
    from sam_hf.ui.checkpoints import Checkpoints
    from sam_hf.ui.safety import launch_options

    real, let_go = SamPredictor.from_pretrained, threading.Event()

    def load(source, *arguments, **options):
        assert source == "tiny" or let_go.wait(60)
        return real("tiny", *arguments, **options)

    monkeypatch.setattr(SamPredictor, "from_pretrained", load)
    checkpoints = Checkpoints(["tiny", "slow"], device="cpu")
    demo = build(checkpoints)
    _, address, _ = demo.launch(**launch_options("127.0.0.1", None, prevent_thread_lock=True, quiet=True))
    try:
        client, picture = Client(address, verbose=False, download_files=False), upload(disc())
        jobs = [client.submit(image=picture, checkpoint="slow", api_name="/embed") for _ in range(6)]
        jobs += [client.submit(checkpoint="slow", api_name="/decoder") for _ in range(3)]
        jobs += [
            client.submit(image=picture, points=[[60, 50]], checkpoint="slow", api_name="/segment") for _ in range(9)
        ]
        opened = client.predict(image=picture, api_name="/embed")
        assert opened["stage"] == "ready"
        assert client.predict(image={"picture": opened["picture"]}, points=[[60, 50]], api_name="/segment")["masks"]
        assert not any(job.done() for job in jobs[:9])
        let_go.set()
        assert [job.result()["checkpoint"] for job in jobs[:6]] == ["slow"] * 6
        for job in jobs[9:]:
            assert job.exception() is None or "still loading" in str(job.exception())
    finally:
        let_go.set()
        for job in jobs:
            job.cancel()
        demo.close(verbose=False)


def test_a_full_queue_says_so_at_once(web, upload, disc, held, empty_queue):
    files = [upload(disc(color=(number, 0, 99))) for number in range(26)]  # twelve are at work, ten wait
    answers, seconds = [], []
    for file in files:
        start = time.monotonic()
        answers.append(web.post("gradio_api/call/v2/embed", json={"image": file}).status_code)
        seconds.append(time.monotonic() - start)
    refused = [took for status, took in zip(answers, seconds, strict=True) if status == 503]
    assert answers[:20] == [200] * 20 and len(refused) >= 2 and max(refused) < 1
    assert web.get("/").status_code == 200  # the page itself is there
    held.set()
    empty_queue()
    assert web.post("gradio_api/call/v2/checkpoints", json={}).status_code == 200


def test_few_may_wait_for_an_encode_outside_of_its_queue(app, upload, disc, held, checkpoints):
    from sam_hf.ui.encoding import Busy, Encoder

    encoder, told, done = Encoder(checkpoints, waiting=1), [], []
    tiny = checkpoints.get("tiny")

    def work(shade):
        import io

        from PIL import Image

        try:
            done.append(encoder.encode(tiny, Image.open(io.BytesIO(disc(color=(shade, 200, 200))))))
        except Busy as error:
            told.append(str(error))

    threads = [threading.Thread(target=work, args=(shade,)) for shade in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    held.set()
    [thread.join() for thread in threads]
    assert len(done) == 2 and len(told) == 2 and all("try again" in words for words in told)


def test_cancelling_everything_stops_it_at_the_next_batch(client, call, upload, disc, slow_batches, empty_queue):
    picture = {"picture": call("embed", image=upload(disc()))["picture"]}
    job = client.submit(image=picture, points_per_side=64, api_name="/everything")
    while not slow_batches or job.communicator.event_id is None:  # the work may begin before its number is known
        time.sleep(0.01)
    job.cancel()
    empty_queue()
    stopped = len(slow_batches)
    time.sleep(1)
    assert len(slow_batches) == stopped < 20  # of 64
    options = {"points_per_side": 4, "pred_iou_thresh": 0, "stability_score_thresh": 0}
    assert call("everything", image=picture, **options)["final"]


def test_what_was_opened_is_one_answer_of_the_server_and_no_state(app, call, upload, disc):
    before = len(app.pictures)
    for _ in range(5):
        call("embed", image=upload(disc(x=70)))
    assert len(app.pictures) == before + 5
    bytes_before = app.pictures.nbytes
    call("embed", image=upload(disc(x=70)))
    assert app.pictures.nbytes == bytes_before  # the same picture is kept once


def test_a_picture_that_has_expired_is_said_to_have(app, call, upload, disc):
    picture = {"picture": call("embed", image=upload(disc()))["picture"]}
    app.pictures.clear()
    assert call("segment", image=picture, points=[[1, 1]]) == "error: this picture has expired, open it again"
