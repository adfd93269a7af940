"""transformers' task "mask-generation": the same options and keys, several pictures in one call.

python examples/mask_pipeline.py [mask_pipeline.png]
"""

import sys

import numpy as np
from PIL import Image

import sam_hf
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay_many

image = Image.fromarray(draw_scene())
generate = sam_hf.pipeline("mask-generation", model="tiny")  # or a Hub id, a folder, a loaded model

options = {"points_per_crop": 12, "pred_iou_thresh": 0.7, "stability_score_thresh": 0.85}
first, second = generate([image, image.rotate(90, expand=True)], batch_size=2, output_rle_mask=True, **options)
for found in (first, second):
    print(len(found["masks"]), "masks; the first as RLE:", found["rle_mask"][0]["size"], "rows and columns")

masks = sorted((np.asarray(mask) for mask in first["masks"]), key=lambda mask: -mask.sum())
Image.fromarray(overlay_many(np.asarray(image), masks)).save(sys.argv[1] if sys.argv[1:] else "mask_pipeline.png")
