"""Run lengths of strangers: what pycocotools writes is read, what would make it read nonsense is refused."""

import numpy as np
import pytest

from sam_hf.masks import rle


def test_what_pycocotools_writes_is_taken_as_it_is():
    generator = np.random.default_rng(0)
    for _ in range(300):
        height, width = generator.integers(1, 40, 2)
        mask = generator.random((height, width)) < generator.random()
        mask = np.repeat(np.repeat(mask, generator.integers(1, 30), 0), generator.integers(1, 30), 1)
        encoded = rle.encode(mask)
        assert rle.checked(encoded) == rle.checked(encoded, mask.shape) == encoded


def test_a_list_of_runs_becomes_text():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2] = True
    assert rle.checked({"size": [4, 5], "counts": [9, 2, 9]}) == rle.encode(mask)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "expected an RLE with size and counts, got NoneType"),
        ({"size": [2, 2]}, "expected an RLE"),
        ({"size": [2], "counts": "4"}, "size"),
        ({"size": [2, True], "counts": "2"}, "size"),
        ({"size": [2, -2], "counts": "4"}, "size"),
        ({"size": [2, 0], "counts": ""}, "size"),
        ({"size": [2.0, 2.0], "counts": "4"}, "size"),
        ({"size": [10**9, 10**9], "counts": "4"}, "size: expected at most"),
        ({"size": [2, 3], "counts": "6"}, r"size: expected \[2, 2\] \(height, width\), got \[2, 3\]"),
        ({"size": [2, 2], "counts": "3"}, "the runs hold 3 pixels"),
        ({"size": [2, 2], "counts": ""}, "the runs hold 0 pixels"),
        ({"size": [2, 2], "counts": "5O"}, "impossible length"),  # 5, then -1
        ({"size": [2, 2], "counts": "T"}, "cut short"),
        ({"size": [2, 2], "counts": "PPPPPPPPPPPPPPP0"}, "impossible length"),
        ({"size": [2, 2], "counts": "4\x00"}, "not COCO's"),
        ({"size": [2, 2], "counts": "４"}, "not COCO's"),
        ({"size": [2, 2], "counts": "4 "}, "not COCO's"),
        ({"size": [2, 2], "counts": b"4"}, "counts: expected"),
        ({"size": [2, 2], "counts": [5, -1]}, "counts: expected"),
        ({"size": [2, 2], "counts": [4.0]}, "counts: expected"),
        ({"size": [2, 2], "counts": [10**30]}, "counts: expected"),
        ({"size": [2, 2], "counts": {"4": 4}}, "counts: expected"),
    ],
)
def test_what_is_refused(value, said):
    with pytest.raises(ValueError, match=said):
        rle.checked(value, None if "at most" in said else (2, 2))


def test_no_text_makes_anything_but_a_value_error():
    generator = np.random.default_rng(0)
    taken = 0
    for _ in range(3000):
        text = "".join(map(chr, generator.integers(48, 112, generator.integers(0, 6))))
        try:
            value = rle.checked({"size": [3, 4], "counts": text})
        except ValueError:
            continue
        taken += 1
        assert rle.decode(value).shape == (3, 4)
    assert taken > 0
