"""Everything mode: all masks of a picture, watched while they are found.

python examples/everything.py [everything.png]
"""

import sys

from PIL import Image

from sam_hf import SamAutomaticMaskGenerator
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay_many

image = draw_scene()
generator = SamAutomaticMaskGenerator.from_pretrained(
    "tiny",
    points_per_side=12,  # Meta's names and defaults; 32 here finds smaller things
    pred_iou_thresh=0.7,  # the embedded checkpoint is less sure of itself than SAM
    stability_score_thresh=0.85,
)
for progress in generator.stream(image):  # `generator.generate(image)` gives the records at once
    print(f"{progress.done} of {progress.total} points, {len(progress.records)} masks")

records = sorted(progress.records, key=lambda record: -record["area"])  # small masks on top
for record in records:
    print(f"{record['area']} px at {record['bbox']}, predicted IoU {record['predicted_iou']:.2f}")

picture = overlay_many(image, [record["segmentation"] for record in records])
Image.fromarray(picture).save(sys.argv[1] if sys.argv[1:] else "everything.png")
