"""COCO out: everything mode's masks as an annotation file that pycocotools and every labelling tool read.

python examples/coco_json.py [coco.json]
"""

import json
import sys

from PIL import Image
from pycocotools.coco import COCO

from sam_hf import SamAutomaticMaskGenerator
from sam_hf.hub.example_pictures import draw_scene

image = draw_scene()
Image.fromarray(image).save("scene.png")
generator = SamAutomaticMaskGenerator.from_pretrained(
    "tiny", points_per_side=12, pred_iou_thresh=0.7, stability_score_thresh=0.85, output_mode="coco_rle"
)
annotations = [
    {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, **record}
    for number, record in enumerate(generator.generate(image), start=1)  # segmentation is RLE, bbox xywh
]
height, width = image.shape[:2]
content = {
    "images": [{"id": 1, "file_name": "scene.png", "height": height, "width": width}],
    "categories": [{"id": 1, "name": "object"}],  # SAM knows where things are, not what they are called
    "annotations": annotations,
}
path = sys.argv[1] if sys.argv[1:] else "coco.json"
with open(path, "w", encoding="utf-8") as file:
    json.dump(content, file)

read = COCO(path)
for annotation in read.loadAnns(read.getAnnIds(imgIds=1)):
    print(annotation["id"], read.annToMask(annotation).sum(), "px")
