"""Publishing: what of a checkpoint's folder would go to the Hub, and its model card; nothing is sent.

python examples/push.py [FOLDER]
"""

import sys

from PIL import Image

from sam_hf import SamModel, SamPredictor, SamProcessor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.hub.model_card import card_for
from sam_hf.hub.publishing import publish
from sam_hf.masks.drawing import overlay

folder = sys.argv[1] if sys.argv[1:] else "my-sam"
SamModel.from_pretrained("tiny").save_pretrained(folder)
SamProcessor.from_pretrained("tiny").save_pretrained(folder)

# Without dry_run it goes up, after `hf auth login`: weights, processor files for new and old readers, card, pictures.
done = publish(folder, "my-name/my-sam", dry_run=True)
for name, size in sorted(done.files.items()):
    print(f"{name:32s} {'drawn when it is sent' if size is None else f'{size:,} bytes'}")

# It says what is known, and "not measured" otherwise; facts of a training, or a conversion, are in training.json.
card = card_for(folder, model_name="my-name/my-sam")
print(card.split("---")[1])

image = draw_scene()  # the pictures of the page show this scene
predictor = SamPredictor.from_pretrained(folder)
masks, scores, _ = predictor.decode(predictor.encode(image), points=[[150, 150]])
mask = masks[scores.argmax()]
Image.fromarray(overlay(image, [mask])).save("push.png")
