"""Fine-tuning: a few steps on masks of one's own, the prompts being simulated from them.

python examples/fine_tuning.py [fine_tuning.png]
"""

import sys

import numpy as np
import torch
from PIL import Image

from sam_hf import SamModel, SamPredictor, SamProcessor
from sam_hf.hub.example_pictures import draw_scene
from sam_hf.masks.drawing import overlay
from sam_hf.training.presets import SAM1_PAPER
from sam_hf.training.promptable import SamForPromptableTraining

image = draw_scene()
rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
wanted = (rows - 150) ** 2 + (columns - 150) ** 2 < 80**2  # the mask of the red disc, or what you have drawn

model, processor = SamModel.from_pretrained("tiny"), SamProcessor.from_pretrained("tiny")
inputs = processor(image, segmentation_maps=wanted.astype(np.uint8), return_tensors="pt")
masks = inputs["labels"][:, None] == 1  # (B,P,H,W): one mask of one picture

training = SamForPromptableTraining(model, SAM1_PAPER).train()  # clicks, boxes and corrections, round after round
optimizer = torch.optim.AdamW(model.mask_decoder.parameters(), lr=1e-4)
for step in range(3):
    result = training(inputs["pixel_values"], masks, step=step)
    optimizer.zero_grad()
    result["loss"].backward()
    optimizer.step()
    print(f"step {step}: loss {result['loss']:.3f}, IoU by round {[round(iou, 2) for iou in result['ious'].tolist()]}")

predictor = SamPredictor(model, processor)
(mask,), _, _ = predictor.decode(predictor.encode(image), box=[65, 65, 235, 235], multimask_output=False)
Image.fromarray(overlay(image, [mask])).save(sys.argv[1] if sys.argv[1:] else "fine_tuning.png")
