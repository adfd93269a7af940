"""Text and a click together: both are tokens of one prompt, so each can say what the other leaves open.

python examples/text_and_click.py [text_and_click.png]
"""

import sys

from PIL import Image

from sam_hf import SamPredictor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import draw_prompts, overlay

image = draw_scene()
predictor = SamPredictor.from_pretrained("tiny")
embedding = predictor.encode(image)  # an immutable value; `decode` has no state and serves many threads

prompts = {
    "a click": {"points": [[150, 150]]},
    "a phrase": {"text": "red circle"},
    "both": {"points": [[150, 150]], "text": "red circle"},
}
for name, prompt in prompts.items():
    masks, scores, _ = predictor.decode(embedding, **prompt)
    mask = masks[scores.argmax()]
    print(f"{name}: {mask.sum()} px, predicted IoU {scores.max():.2f}")

picture = draw_prompts(overlay(image, [mask]), [[150, 150]], [1])
Image.fromarray(picture).save(sys.argv[1] if sys.argv[1:] else "text_and_click.png")
