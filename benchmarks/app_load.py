"""Many people at once on the app: `python benchmarks/app_load.py [--users 20 50] [--requests 6] [--endurance 1000]`.

Everybody has pictures of their own, uploads one, opens it and clicks on it; each answer is compared with the disc that
was drawn. The server is a process of its own on a loopback port. Prints p50 and p95 in seconds of a whole request
(upload, encode, click) and of the click alone, errors, answers about something else than the disc ("mixed"), and the
growth of the server's memory. Last, 200 people come within two seconds where 100 may wait.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image, ImageDraw

from sam_hf.masks import rle

SIZE, RADIUS = (320, 240), 36
AGREES = 0.7


@dataclass
class Tally:
    """What happened: seconds of each request and of each click, sentences of errors, how many were busy or mixed."""

    whole: list[float] = field(default_factory=list)
    clicks: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    mixed: int = 0
    busy: list[float] = field(default_factory=list)

    def line(self) -> str:
        """For a person."""
        whole, clicks = np.percentile(self.whole, (50, 95)), np.percentile(self.clicks, (50, 95))
        return (
            f"{len(self.whole)} answered, p50 {whole[0]:.2f} p95 {whole[1]:.2f}, "
            f"click p50 {clicks[0]:.3f} p95 {clicks[1]:.3f}, {len(self.errors)} errors, {self.mixed} mixed"
        )


def disc(number: int) -> tuple[bytes, np.ndarray, tuple[int, int]]:
    """A picture of its own for each number: file, mask (H,W) of its disc, and the disc's centre xy."""
    random = np.random.default_rng(number)
    x, y = (int(random.integers(RADIUS, side - RADIUS)) for side in SIZE)
    colors = random.permutation([[220, 60, 40], [240, 200, 40], [40, 90, 200], [30, 120, 70]])
    image = Image.new("RGB", SIZE, tuple(colors[0].tolist()))
    ImageDraw.Draw(image).ellipse([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], fill=tuple(colors[1].tolist()))
    file = io.BytesIO()
    image.save(file, "PNG")
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return file.getvalue(), (columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2, (x, y)


async def call(client: httpx.AsyncClient, name: str, **arguments: object) -> dict:
    """Asks an endpoint.

    Raises:
        Busy: The queue is full.
        RuntimeError: It answered by an error.
    """
    joined = await client.post(f"gradio_api/call/v2/{name}", json=arguments)
    if joined.status_code == 503:
        raise Busy
    joined.raise_for_status()
    event, last = "", ""
    async with client.stream("GET", f"gradio_api/call/{name}/{joined.json()['event_id']}") as stream:
        async for line in stream.aiter_lines():
            event = line.removeprefix("event: ") if line.startswith("event: ") else event
            last = line.removeprefix("data: ") if line.startswith("data: ") else last
    if event != "complete":
        raise RuntimeError(f"{event}: {last}")
    return json.loads(last)[0]


class Busy(Exception):
    """The queue is full."""


async def request(client: httpx.AsyncClient, number: int, tally: Tally) -> None:
    """One picture: uploaded, opened, clicked on."""
    content, mask, centre = disc(number)
    start = time.perf_counter()
    try:
        sent = await client.post("gradio_api/upload", files={"files": (f"{number}.png", content)})
        sent.raise_for_status()
        file = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
        opened = await call(client, "embed", image=file)
        clicked = time.perf_counter()
        answer = await call(client, "segment", image={"picture": opened["picture"]}, points=[centre])
        end = time.perf_counter()
    except Busy:
        tally.busy.append(time.perf_counter() - start)
        return
    except (httpx.HTTPError, RuntimeError) as error:
        tally.errors.append(f"{type(error).__name__}: {error}"[:200])
        return
    found = rle.decode(answer["masks"][answer["selected"]]["rle"])
    tally.whole.append(end - start)
    tally.clicks.append(end - clicked)
    tally.mixed += np.logical_and(found, mask).sum() < AGREES * np.logical_or(found, mask).sum()


async def crowd(address: str, users: int, requests: int, first: int = 0) -> Tally:
    """Users at once, each with so many requests one after the other."""
    tally = Tally()

    async def user(number: int) -> None:
        async with httpx.AsyncClient(base_url=address, timeout=300) as client:
            for index in range(requests):
                await request(client, first + number * requests + index, tally)

    await asyncio.gather(*(user(number) for number in range(users)))
    return tally


async def rush(address: str, users: int = 200) -> tuple[Tally, float]:
    """Users who come within two seconds and go if it is busy; and the seconds of a page in the midst of it."""
    tally = Tally()
    limits = httpx.Limits(max_connections=None, keepalive_expiry=1)  # before the server closes them
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        uploads = [client.post("gradio_api/upload", files={"files": ("a.png", disc(i)[0])}) for i in range(users)]
        paths = [sent.json()[0] for sent in await asyncio.gather(*uploads)]

        async def come(path: str, after: float) -> None:
            await asyncio.sleep(after)
            start = time.perf_counter()
            try:
                await call(client, "embed", image={"path": path, "meta": {"_type": "gradio.FileData"}})
                tally.whole.append(time.perf_counter() - start)
            except Busy:
                tally.busy.append(time.perf_counter() - start)
            except (httpx.HTTPError, RuntimeError) as error:
                tally.errors.append(f"{type(error).__name__}: {error}"[:200])

        async def page() -> float:
            await asyncio.sleep(1)
            start = time.perf_counter()
            (await client.get("/")).raise_for_status()
            return time.perf_counter() - start

        *_, seconds = await asyncio.gather(*(come(path, i / 100) for i, path in enumerate(paths)), page())
    return tally, seconds


def resident(pid: int) -> float:
    """MiB of memory that a process has."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


def serve(folder: str, *options: str) -> tuple[subprocess.Popen, str, float]:
    """The app as a process: it, its address, and the seconds until its first page."""
    start = time.perf_counter()
    environment = {**os.environ, "GRADIO_TEMP_DIR": folder, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sam_hf.cli", "app", *options]
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        found = re.search(r"http://[\d.:]+/?", line)
        if found:
            httpx.get(found[0], timeout=60).raise_for_status()
            return server, found[0], time.perf_counter() - start
    raise RuntimeError("the app did not start")


def files_in(folder: str) -> int:
    """How many files lie in a folder and those in it."""
    return sum(len(names) for _, _, names in os.walk(folder))


def main() -> None:
    """Starts a server and lets people come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="*", default=[1, 20, 50])
    parser.add_argument("--requests", type=int, default=6, help="of each user")
    parser.add_argument("--endurance", type=int, default=1000, help="requests in a row; 0: none")
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, address, seconds = serve(folder, "--model", arguments.model)
        try:
            print(f"first page after {seconds:.1f} s")
            asyncio.run(crowd(address, 1, 3, 10**6))  # loaded, warm
            for users in arguments.users:
                start = time.perf_counter()
                tally = asyncio.run(crowd(address, users, arguments.requests))
                rate = len(tally.whole) / (time.perf_counter() - start)
                print(f"{users:3} users: {tally.line()}, {rate:.1f}/s, {resident(server.pid):.0f} MiB")
                print(*tally.errors[:5], sep="\n", end="\n" if tally.errors else "")
            tally, seconds = asyncio.run(rush(address))
            slowest = max(tally.busy, default=0)
            print(f"rush: {len(tally.whole)} answered, {len(tally.busy)} told busy within {slowest:.2f} s, ", end="")
            print(f"{len(tally.errors)} errors, a page meanwhile {seconds:.2f} s")
            print(*tally.errors[:5], sep="\n", end="\n" if tally.errors else "")
            if arguments.endurance:
                endure(server.pid, address, folder, arguments.endurance)
        finally:
            server.terminate()
            server.wait(20)


def endure(pid: int, address: str, folder: str, count: int) -> None:
    """Requests in a row, four at once, and what is left of them."""
    asyncio.run(crowd(address, 4, 25, 10**7))
    before, open_files = resident(pid), len(os.listdir(f"/proc/{pid}/fd"))
    tally = asyncio.run(crowd(address, 4, count // 4, 10**8))
    after = len(os.listdir(f"/proc/{pid}/fd"))
    print(f"endurance: {tally.line()}, memory {resident(pid) - before:+.0f} MiB, ", end="")
    print(f"file handles {after - open_files:+d}, {files_in(folder)} files")


if __name__ == "__main__":
    main()
