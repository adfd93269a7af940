"""Embeddings that are kept: a picture is encoded once, for all prompts, all threads and the next process.

python examples/embedding_reuse.py [embedding_reuse.png]
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from sam_hf import EmbeddingStore, SamPredictor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay

image = draw_scene()
store = EmbeddingStore(max_bytes=2**28, folder="embeddings")  # bounded in memory; the folder is for the next process
predictor = SamPredictor.from_pretrained("tiny", store=store)

for attempt in ("first", "second"):
    start = time.perf_counter()
    embedding = predictor.encode(image)  # known by its pixels, and by the weights that encode it
    print(f"{attempt} time: {1000 * (time.perf_counter() - start):.1f} ms")

clicks = [[150, 150], [360, 130], [140, 320], [350, 290]]
with ThreadPoolExecutor(4) as threads:
    answers = list(threads.map(lambda click: predictor.decode(embedding, points=[click]), clicks))
masks = [answer.masks[answer.scores.argmax()] for answer in answers]
mask = masks[0]
print(store.statistics())

Image.fromarray(overlay(image, masks)).save(sys.argv[1] if sys.argv[1:] else "embedding_reuse.png")
