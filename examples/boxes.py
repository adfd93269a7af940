"""Boxes: one mask per box, for as many boxes as there are, in one call.

python examples/boxes.py [boxes.png]
"""

import sys

from PIL import Image

from sam_hf import SamPredictor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import draw_prompts, overlay

image = draw_scene()
predictor = SamPredictor.from_pretrained("tiny")
predictor.set_image(image)

boxes = [[65, 65, 235, 235], [290, 60, 430, 200], [255, 235, 445, 345]]  # left, top, right, bottom
answers = predictor.predict_batch(boxes=boxes, multimask_output=False)  # a box is not ambiguous
mask = answers.masks[0, 0]
for box, found, score in zip(boxes, answers.masks[:, 0], answers.scores[:, 0], strict=True):
    print(f"{box}: {found.sum()} px, predicted IoU {score:.2f}")

picture = overlay(image, answers.masks[:, 0])
for box in boxes:
    picture = draw_prompts(picture, box=box)
Image.fromarray(picture).save(sys.argv[1] if sys.argv[1:] else "boxes.png")
