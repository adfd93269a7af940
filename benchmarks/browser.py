"""Click to mask in a headless browser: onnxruntime-web's WebAssembly in the page's worker, outline and drawing too.

    python benchmarks/browser.py [--model tiny full-size] [--threads 1 2] [--clicks 60] [--folder FOLDER]

`tiny` is the embedded checkpoint on one of the app's pictures; `full-size` a decoder of Meta's sizes (256 channels,
64 x 64 cells) with random weights, whose noisy masks have far longer outlines than real ones. A click counts from the
request until the mask is filled and outlined on a canvas of 1000 x 700 pixels; `decoder` is the part inside
decoder_per_click. Medians, with the quarter and three-quarter points. They are times of this machine as busy as it is:
its load is printed beside them. The paper's figure is about 50 ms.
"""

import argparse
import functools
import json
import os
import shutil
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from sam_hf import SamConfig, SamModel, SamPredictor
from sam_hf.hub.onnx_export import export_onnx

STATIC = Path(__file__).resolve().parent.parent / "sam_hf" / "ui" / "static"
FILES = {"perImage": "decoder_per_image_fp16.onnx", "perClick": "decoder_per_click.onnx"}
CHROMIUM = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
TARGETS = {("tiny", 1): 25, ("full-size", 1): 100, ("full-size", 2): 60}  # milliseconds on two idle cores
PAGE = """<!doctype html><canvas width=1000 height=700></canvas><script type=module>
import { Decoder } from "/static/decoder.js";
import { outlineOfLogits, pathOf } from "/static/mask_drawing.js";
window.measure = async ({ files, threads, shape, clicks, side }) => {
  const decoder = new Decoder(() => new Worker("/static/decoder_worker.js", { type: "module" }));
  const loaded = await decoder.load(files, threads);
  const embedding = await (await fetch("/model/embedding.bin")).arrayBuffer();
  await decoder.setPicture("picture", embedding, shape);
  const frame = { size: [side, side], resized: [side, side], padded: side };
  const context = document.querySelector("canvas").getContext("2d");
  context.scale(700 / side, 700 / side);
  const times = [];
  for (let click = 0; click < clicks + 5; click++) {
    const place = [side * (0.1 + 0.8 * ((click * 7) % 10) / 10), side * (0.1 + 0.8 * ((click * 3) % 10) / 10)];
    const began = performance.now();
    const prompt = { picture: "picture", points: Float32Array.from(place), labels: [1], text: null };
    const answer = await decoder.decode({ ...prompt, mask: null, maskKey: "", wanted: [1, 2, 3] });
    const decoded = performance.now();
    const best = answer.scores.indexOf(Math.max(...answer.scores));
    const path = pathOf(outlineOfLogits(answer.masks[best], answer.low, frame));
    context.clearRect(0, 0, side, side);
    context.fill(path, "evenodd");
    for (const width of [4, 2]) {
      context.lineWidth = (width * side) / 700;
      context.stroke(path);
    }
    const drawn = performance.now();
    if (click >= 5) times.push([drawn - began, answer.milliseconds, drawn - decoded]); // the first ones warm up
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  decoder.close();
  return { times, threads: loaded.threads };
};
window.isReady = true;
</script>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["tiny", "full-size"], choices=("tiny", "full-size"))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--clicks", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="keeps the exported files, and uses those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing, sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        print(f"Chromium {browser.version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for name in options.model:
            folder = (options.folder or Path(passing)) / name
            shape, side = prepare(name, folder)
            for threads in options.threads:
                report(name, measure(browser, folder, shape, side, threads, options.clicks))
        browser.close()


def prepare(name: str, folder: Path) -> tuple[list[int], int]:
    """Decoder and embedding of a model in a folder; the embedding's shape and a resized picture's longest side."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tiny":
        predictor = SamPredictor.from_pretrained("tiny")
        model = predictor.model
        embedding = predictor.encode(Image.open(STATIC / "examples" / "market.webp")).tensor
    else:
        torch.manual_seed(0)
        vision = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "mlp_dim": 64}
        model = SamModel(SamConfig(vision_config={**vision, "global_attn_indexes": [0]})).eval()
        embedding = torch.randn(1, 256, 64, 64)
    if not all((folder / file).exists() for file in FILES.values()):
        export_onnx(model, folder, ["decoder_per_image"], ["float16"], overwrite=True)
        export_onnx(model, folder, ["decoder_per_click"], overwrite=True)
    embedding.to(torch.float16).numpy().tofile(folder / "embedding.bin")
    return list(embedding.shape), model.config.vision_config.image_size


def measure(browser, folder: Path, shape: list[int], side: int, threads: int, clicks: int) -> dict:
    """Times of clicks in a new page: total, inside the decoder, outline and drawing; milliseconds."""
    handler = functools.partial(Handler, model=folder, isolated=threads > 1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function("window.isReady")
        files = {part: f"/model/{file}" for part, file in FILES.items()}
        page.set_default_timeout(600_000)
        given = {"files": files, "threads": threads, "shape": shape, "clicks": clicks, "side": side}
        return page.evaluate(f"measure({json.dumps(given)})")
    finally:
        page.close()
        server.shutdown()
        server.server_close()


class Handler(SimpleHTTPRequestHandler):
    """The harness, the app's static files and one model; isolated from other origins if threads are wanted."""

    def __init__(self, *args, model: Path, isolated: bool):
        self.model, self.isolated = model, isolated
        super().__init__(*args)

    extensions_map = {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def translate_path(self, path: str) -> str:
        folder, name = (STATIC, path[8:]) if path.startswith("/static/") else (self.model, path[7:])
        return str(folder / name)

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        return self.wfile.write(PAGE.encode())

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args) -> None:
        """Says nothing."""


def report(name: str, found: dict) -> None:
    """One line for a model and a number of threads."""
    total, decoder, drawing = np.array(found["times"]).T
    low, middle, high = np.percentile(total, [25, 50, 75])
    target = TARGETS.get((name, found["threads"]))
    print(
        f"{name:10s} {found['threads']} thread(s): {middle:6.1f} ms ({low:.1f} to {high:.1f}), least {total.min():.1f}"
        f"; decoder {np.median(decoder):.1f}, outline and drawing {np.median(drawing):.1f}"
        + (f"; target {target}" if target else "")
    )


if __name__ == "__main__":
    main()
