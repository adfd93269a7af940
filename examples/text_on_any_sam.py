"""Free text on a SAM without a text branch: a CLIP finds the phrase, SAM draws it; nothing is trained.

    python examples/text_on_any_sam.py [text_on_any_sam.png [MODEL CLIP]]

MODEL is a Hub id or a folder, CLIP an open_clip "ARCHITECTURE/TAG" or a folder, for example
`facebook/sam-vit-base ViT-B-16-quickgelu/openai`. Without them the embedded two are used, and the text branch that
the embedded SAM has is left alone.
"""

import sys

from PIL import Image

from sam_hf import SamTextSegmenter
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay

path, model, clip = [*sys.argv[1:], *["text_on_any_sam.png", "tiny", "tiny"][len(sys.argv) - 1 :]]
image = draw_scene()
segmenter = SamTextSegmenter.from_pretrained(model, clip=clip)

masks = []
for grounding in ("dense", "proposals"):  # cell by cell in CLIP's features; or among everything mode's masks
    answer = segmenter.segment(image, "red circle", grounding=grounding)
    masks += [instance.mask for instance in answer.instances[:1]]
    found = ", ".join(f"{one.area} px ({one.text_probability:.2f})" for one in answer.instances) or "nothing"
    print(f"{grounding}: {found}; presence {answer.presence:.2f}")

Image.fromarray(overlay(image, masks)).save(path)
