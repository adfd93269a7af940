"""A click: three masks for an ambiguous point, and a second click that says what was not meant.

python examples/clicks.py [clicks.png]
"""

import sys

import numpy as np
from PIL import Image

from sam_hf import SamPredictor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import draw_prompts, overlay

image = draw_scene()  # or a path, a PIL image, any array
predictor = SamPredictor.from_pretrained("tiny")  # or "facebook/sam-vit-huge", or a folder
predictor.set_image(image)

# One point may mean a thing, a part of it or what it lies on, so there are three answers: take the best.
masks, scores, logits = predictor.predict(point_coords=[[150, 150]], point_labels=[1])
best = scores.argmax()
for mask, score in zip(masks, scores, strict=True):
    print(f"one click: {mask.sum()} px, predicted IoU {score:.2f}")

# The next click refines that answer; several clicks are no longer ambiguous, so one mask is asked for.
points, labels = np.array([[150, 150], [350, 290]]), np.array([1, 0])
(mask,), (score,), _ = predictor.predict(points, labels, mask_input=logits[best][None], multimask_output=False)
print(f"two clicks: {mask.sum()} px, predicted IoU {score:.2f}")

picture = draw_prompts(overlay(image, [mask]), points, labels)
Image.fromarray(picture).save(sys.argv[1] if sys.argv[1:] else "clicks.png")
