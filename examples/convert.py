"""Converting: a checkpoint into Meta's file layout and back into a folder; no weight changes.

python examples/convert.py [convert.png]
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from sam_hf import SamPredictor
from sam_hf.hub.conversion import convert
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay

# Or "sam_vit_b_01ec64.pth" -> "sam-vit-b", "mobile_sam.pt" -> "mobile-sam", "facebook/sam-vit-base" -> "sam_b.pth".
folder = Path(tempfile.mkdtemp(prefix="converted-", dir="."))  # a new one: nothing of yours is overwritten
for source, target in (("tiny", folder / "tiny.pth"), (folder / "tiny.pth", folder / "tiny-plain")):
    done = convert(source, target, drop_text=source == "tiny")  # Meta's layout has no place for text
    print(f"{source}: {done.variant} -> {done.target}, {done.layout} layout")
    for note in done.notes:  # what a user should know
        print("  note:", note)

image = draw_scene()
answers = []
for name in ("tiny", folder / "tiny-plain"):
    predictor = SamPredictor.from_pretrained(name)
    predictor.set_image(image)
    answers.append(predictor.predict(point_coords=[[150, 150]], point_labels=[1]))
(before, scores, _), (after, _, _) = answers
print("the same masks:", (before == after).all())

mask = after[scores.argmax()]
Image.fromarray(overlay(image, [mask])).save(sys.argv[1] if sys.argv[1:] else "convert.png")
