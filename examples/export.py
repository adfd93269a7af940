"""Exporting: the decoder as ONNX files, which run in a browser, from C++ or here, without torch and this package.

python examples/export.py [export.png]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from sam_hf import SamModel, SamPredictor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.hub.onnx_export import export_onnx
from sam_hf.masks.drawing import overlay

# All parts without the list; dtypes=["float16", "int8"] makes smaller files (docs/export.md).
folder = tempfile.mkdtemp(prefix="exported-", dir=".")  # a new one: nothing of yours is overwritten
files = export_onnx(SamModel.from_pretrained("tiny"), folder, ["decoder_per_image", "decoder_per_click"])
for file in files:
    print(f"{file}: {Path(file).stat().st_size / 2**20:.1f} MiB")

image = draw_scene()
embedding = SamPredictor.from_pretrained("tiny").encode(image)  # what a server sends; or vision_encoder.onnx

per_image, per_click = (onnxruntime.InferenceSession(file) for file in files)
no_mask = {"mask_input": np.zeros((1, 1, 128, 128), np.float32), "has_mask_input": np.zeros(1, np.float32)}
names = [output.name for output in per_image.get_outputs()]
shared = per_image.run(names, {"image_embeddings": embedding.tensor.numpy()} | no_mask)  # once per picture

scale = 256 / max(image.shape[:2])  # pixels of the resized picture
click = {"input_points": np.array([[[150, 150]]], np.float32) * np.float32(scale), "input_labels": np.array([[1]])}
no_text = {"text_embeds": np.zeros((1, 128), np.float32)}
scores, logits = per_click.run(None, dict(zip(names, shared, strict=True)) | click | no_text)  # at each click
best = logits[0, 1:][scores[0, 1:].argmax()]  # a single point is ambiguous: masks 1 to 3
print(f"predicted IoU {scores[0, 1:].max():.2f}")

stretched = Image.fromarray(best).resize(
    (image.shape[1],) * 2, Image.BILINEAR
)  # off the padded square, as a canvas does
mask = np.asarray(stretched)[: image.shape[0]] > 0
Image.fromarray(overlay(image, [mask])).save(sys.argv[1] if sys.argv[1:] else "export.png")
