"""Free text: which things a phrase names, which of them is meant, and whether it is in the picture at all.

python examples/free_text.py [free_text.png]
"""

import sys

from PIL import Image

from sam_hf import SamTextSegmenter
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay

image = draw_scene()
segmenter = SamTextSegmenter.from_pretrained("tiny")  # has a text branch; see text_on_any_sam.py for those without

answer = segmenter.segment(image, "red circle")
mask = answer.instances[0].mask
print(f"red circle: {mask.sum()} px, presence {answer.presence:.2f}, by {answer.grounding}")

absent = segmenter.segment(image, "purple star")
print(f"purple star: {'not there' if absent.absent else 'there'}, presence {absent.presence:.2f}")

Image.fromarray(overlay(image, [mask])).save(sys.argv[1] if sys.argv[1:] else "free_text.png")
