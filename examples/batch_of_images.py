"""A batch: pictures of two sizes, each with its own number and kind of prompts, in transformers' own style.

python examples/batch_of_images.py [batch_of_images.png]
"""

import sys

import torch
from PIL import Image

from sam_hf import SamModel, SamProcessor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay

model, processor = SamModel.from_pretrained("tiny").eval(), SamProcessor.from_pretrained("tiny")
scene = draw_scene()
images = [scene, scene[:, :280]]

inputs = processor(
    images,
    input_points=[[[[150, 150]], [[360, 130]]], [[[140, 320]]]],  # [image][prompt][point][x, y], original pixels
    text=[[None, "blue square"], ["yellow triangle"]],  # [image][prompt]; padding never changes an answer
    return_tensors="pt",
)
with torch.inference_mode():
    outputs = model(**inputs, multimask_output=False)
masks = processor.post_process_masks(
    outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
)  # per image (P,1,H,W), each in its image's own size
mask = masks[0][0, 0].numpy()
for number, (image, found) in enumerate(zip(images, masks, strict=True)):
    print(f"picture {number}: masks {tuple(found.shape)} of {image.shape[:2]}")

Image.fromarray(overlay(scene, masks[0][:, 0].numpy())).save(sys.argv[1] if sys.argv[1:] else "batch_of_images.png")
