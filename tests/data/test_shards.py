"""Tar shards: the same content as unpacked, shuffled and shared out without loss or repetition."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from sam_hf.data.coco import CocoImages
from sam_hf.data.sa1b import Sa1bFolder
from sam_hf.data.shards import ShardReader, find_shards
from sam_hf.masks import rle

COUNT = 6


def mask(number):
    inside = np.zeros((24, 32), bool)
    inside[3 : 10 + number, 4:20] = True
    return inside


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures in SA-1B's layout, the same in two shards, and the same in a COCO file."""
    root = tmp_path_factory.mktemp("formats")
    pairs = root / "pairs"
    pairs.mkdir()
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for number in range(COUNT):
        Image.fromarray(np.full((24, 32, 3), 40 * number, np.uint8)).save(pairs / f"sa_{number}.png")
        image = {"width": 32, "height": 24, "file_name": f"sa_{number}.png"}
        content = {"image": image, "annotations": [{"segmentation": rle.encode(mask(number))}]}
        (pairs / f"sa_{number}.json").write_text(json.dumps(content))
        coco["images"].append(image | {"id": number})
        coco["annotations"].append({"image_id": number, "category_id": 1, "segmentation": rle.encode(mask(number))})
    (root / "coco.json").write_text(json.dumps(coco))
    for shard in range(2):
        with tarfile.open(root / f"sa_00{shard}.tar", "w") as tar:
            names = [f"sa_{number}{end}" for end in (".json", ".png") for number in range(shard, COUNT, 2)]
            for name in names:  # all pictures after all JSON files: halves are apart
                tar.add(pairs / name, f"./train/{name}")
            tar.add(pairs, "./empty", recursive=False)
    return root


def brightness(records):
    return [int(record.pixels()[0, 0, 0]) // 40 for record in records]


def test_every_format_gives_the_same(folder):
    readers = (Sa1bFolder(folder / "pairs"), CocoImages(folder / "coco.json", folder / "pairs"))
    shards = sorted(ShardReader(find_shards(folder)), key=lambda record: record.name.split(": ")[-1])
    for records in (*map(list, readers), shards):
        assert brightness(records) == list(range(COUNT))
        for number, record in enumerate(records):
            assert record.size == (24, 32) and np.array_equal(record.mask(0), mask(number))


def test_shuffled_passes_are_whole_seeded_and_different(folder):
    passes = [brightness(ShardReader(find_shards(folder), shuffle=3, seed=seed)) for seed in (0, 0, 1, 2)]
    assert all(sorted(numbers) == list(range(COUNT)) for numbers in passes)
    assert passes[0] == passes[1] and len({tuple(numbers) for numbers in passes}) > 1


@pytest.mark.parametrize("parts", [2, 3])  # as many shards as readers, and fewer
@pytest.mark.parametrize("shuffle", [0, 2])
def test_readers_share_the_pictures(folder, parts, shuffle):
    shares = [brightness(ShardReader(find_shards(folder), shuffle, part=part, parts=parts)) for part in range(parts)]
    assert all(shares) and sorted(sum(shares, [])) == list(range(COUNT))


def test_shards_are_found_by_file_folder_and_pattern(folder):
    both = [folder / "sa_000.tar", folder / "sa_001.tar"]
    assert find_shards(folder) == find_shards(folder / "sa_{000..007}.tar") == find_shards(folder / "*.tar") == both
    assert find_shards(both[0]) == both[:1]
    assert find_shards(folder / "coco.json") == find_shards(folder / "pairs") == find_shards("absent.tar") == []


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_damage_is_named_or_counted(folder, tmp_path):
    image = (folder / "pairs" / "sa_1.png").read_bytes()
    good = (folder / "pairs" / "sa_1.json").read_bytes()
    members = {"a.png": image, "a.json": b"{", "b.png": image, "b.json": good, "c.png": image}
    mixed = write_tar(tmp_path / "mixed.tar", members)
    (tmp_path / "cut.tar").write_bytes(b"no tar at all")
    with pytest.raises(ValueError, match=r"mixed\.tar: a: not a JSON file"):
        list(ShardReader([mixed]))
    with pytest.raises(ValueError, match=r"cut\.tar: cannot be read as a tar file"):
        list(ShardReader([tmp_path / "cut.tar"]))
    lonely = write_tar(tmp_path / "lonely.tar", {"c.png": image})
    with pytest.raises(ValueError, match=r"lonely\.tar: .*'c' has only one of them"):
        list(ShardReader([lonely]))
    reader = ShardReader([mixed, tmp_path / "cut.tar"], on_error="skip")
    assert len(list(reader)) == 1 and reader.skipped == 3
    with pytest.raises(ValueError, match="at least one tar file"):
        ShardReader([])
    with pytest.raises(ValueError, match="0 <= part < parts"):
        ShardReader([mixed], part=2, parts=2)


def test_a_shard_of_another_form_or_with_a_giant_member_does_not_stop_a_run(folder, tmp_path, monkeypatch):
    single = write_tar(tmp_path / "a.tar", {f"{number}.png": b"" for number in range(5)})
    monkeypatch.setattr("sam_hf.data.shards.UNPAIRED", 2)
    reader = ShardReader([single, folder / "sa_000.tar"], on_error="skip")
    monkeypatch.setattr("sam_hf.data.shards.MEMBER_BYTES", 10**6)
    assert list(reader) == [] and reader.skipped == 6  # three of each: then the shard is given up
    with pytest.raises(ValueError, match=r"a\.tar: expected a picture and a .json"):
        list(ShardReader([single]))
    monkeypatch.setattr("sam_hf.data.shards.UNPAIRED", 256)
    monkeypatch.setattr("sam_hf.data.shards.MEMBER_BYTES", 20)
    with pytest.raises(ValueError, match=r"sa_000\.tar: .*json' is too large"):
        list(ShardReader([folder / "sa_000.tar"]))
