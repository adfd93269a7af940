"""Saving and loading: a folder that works everywhere a Hub id does.

python examples/save_and_load.py [FOLDER]
"""

import sys

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from sam_hf import SamModel, SamPredictor, SamProcessor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay

folder = sys.argv[1] if sys.argv[1:] else "my-sam"
model, processor = SamModel.from_pretrained("tiny"), SamProcessor.from_pretrained("tiny")
model.save_pretrained(folder)  # written aside, then put into place: a full disk leaves the earlier files as they were
processor.save_pretrained(folder)

again = AutoModel.from_pretrained(folder)  # `import sam_hf` has told transformers what these are
print(type(again).__name__, "and", type(AutoProcessor.from_pretrained(folder)).__name__)
weights = again.state_dict()
assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())

image = draw_scene()
predictor = SamPredictor.from_pretrained(folder, dtype="bfloat16")
masks, scores, _ = predictor.decode(predictor.encode(image), points=[[150, 150]])
mask = masks[scores.argmax()]
Image.fromarray(overlay(image, [mask])).save("save_and_load.png")
