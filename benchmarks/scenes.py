"""Scenes per second on one core: `python benchmarks/scenes.py [--size 128 256] [--scenes 400]`."""

from __future__ import annotations

import argparse
import time

import cv2

from sam_hf.data.synthetic import SceneGenerator


def main() -> None:
    """Warm the glyph cache, then time each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    for size in arguments.size:
        generator = SceneGenerator(size, arguments.split)
        for index in range(arguments.scenes):
            generator(index)
        start, objects = time.process_time(), 0
        for index in range(arguments.scenes, 2 * arguments.scenes):
            objects += len(generator(index).objects)
        seconds = time.process_time() - start
        print(
            f"{size} px: {arguments.scenes / seconds:.0f} scenes/s/core, {objects / arguments.scenes:.1f} masks/scene"
        )


if __name__ == "__main__":
    main()
