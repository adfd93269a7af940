"""The embedding store: bounds, order, threads, files that are damaged, and keys."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sam_hf import EmbeddingStore, ImageEmbedding
from sam_hf.inference.embedding_store import content_key
from sam_hf.inference.fingerprint import WeightsWatch, fingerprint

NBYTES = 2 * 3 * 3 * 4


def _embedding(key: str, dtype: torch.dtype = torch.float32) -> ImageEmbedding:
    tensor = torch.full((1, 2, 3, 3), float(len(key)), dtype=dtype)
    return ImageEmbedding(tensor, (40, 60), (43, 64), key, "revision")


def test_least_recently_used_goes_first_and_bytes_are_bounded():
    store = EmbeddingStore(max_bytes=2 * NBYTES)
    store.put(_embedding("a"))
    store.put(_embedding("b"))
    assert store.get("a") is not None  # now b is the oldest
    store.put(_embedding("c"))
    assert [key in store for key in "abc"] == [True, False, True]
    statistics = store.statistics()
    assert (statistics.entries, statistics.nbytes, statistics.evictions) == (2, 2 * NBYTES, 1)
    assert (statistics.hits, statistics.misses) == (1, 0)


def test_putting_one_key_twice_counts_its_bytes_once():
    store = EmbeddingStore(max_bytes=10 * NBYTES)
    store.put(_embedding("a"))
    store.put(_embedding("a"))
    assert store.statistics().nbytes == NBYTES
    store.clear()
    assert len(store) == store.statistics().nbytes == 0


def test_what_is_too_large_is_handed_out_and_not_kept():
    store = EmbeddingStore(max_bytes=0)
    assert store.get_or_encode("a", lambda: _embedding("a")).key == "a"
    assert len(store) == 0


def test_one_image_asked_by_many_threads_is_encoded_once():
    store, calls = EmbeddingStore(), []
    everybody = threading.Barrier(6)

    def encode():
        calls.append(1)
        time.sleep(0.05)
        return _embedding("a")

    def ask(_):
        everybody.wait()
        return store.get_or_encode("a", encode)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert len(calls) == 1
    assert all(answer is answers[0] for answer in answers)


def test_a_failed_encoding_leaves_no_trace():
    store = EmbeddingStore()
    with pytest.raises(RuntimeError, match="out of memory"):
        store.get_or_encode("a", _fail)
    assert store.get_or_encode("a", lambda: _embedding("a")).key == "a"


def _fail():
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_serve_the_next_process(tmp_path, dtype):
    EmbeddingStore(folder=tmp_path).put(_embedding("a", dtype))
    store = EmbeddingStore(folder=tmp_path)
    assert "a" in store
    found = store.get_or_encode("a", _fail)
    assert torch.equal(found.tensor, _embedding("a", dtype).tensor) and found.dtype == dtype
    assert (found.original_size, found.input_size, found.revision) == ((40, 60), (43, 64), "revision")
    assert store.get("a") is found
    assert (store.statistics().disk_hits, store.statistics().hits) == (1, 1)
    with pytest.raises(RuntimeError, match="[Ii]nference"):
        found.tensor.mul_(2)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other key"])
def test_a_damaged_file_is_a_miss(tmp_path, damage):
    store = EmbeddingStore(folder=tmp_path)
    store.put(_embedding("other" if damage == "other key" else "a"))
    file = tmp_path / "a.safetensors"
    if damage == "other key":
        (tmp_path / "other.safetensors").rename(file)
    else:
        content = file.read_bytes()
        file.write_bytes({"cut": content[:-10], "empty": b"", "text": b"not at all what it says" * 9}[damage])
    store.clear()
    assert store.get("a") is None
    assert store.get_or_encode("a", lambda: _embedding("a")).key == "a"
    store.clear()
    assert store.get("a").key == "a"  # mended by the new encoding


def test_files_are_bounded_and_nothing_unfinished_stays(tmp_path):
    store = EmbeddingStore(folder=tmp_path)
    store.put(_embedding("a"))
    size = (tmp_path / "a.safetensors").stat().st_size
    store = EmbeddingStore(folder=tmp_path, max_disk_bytes=2 * size + size // 2)
    for age, key in enumerate("bc"):
        os.utime(tmp_path / "a.safetensors", (age, age))
        store.put(_embedding(key))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.safetensors", "c.safetensors"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, caplog):
    store = EmbeddingStore(folder=tmp_path / "store")
    (tmp_path / "store").rmdir()
    assert store.get_or_encode("a", lambda: _embedding("a")).key == "a"
    assert "cannot keep an embedding" in caplog.text


def test_negative_bounds_are_refused():
    with pytest.raises(ValueError, match="max_bytes must be 0 or more, got -1"):
        EmbeddingStore(max_bytes=-1)


def test_keys_cover_content_shape_type_settings_and_weights():
    pixels = torch.arange(24, dtype=torch.uint8).reshape(1, 4, 6)
    changed = pixels.clone()
    changed[0, 0, 0] = 9
    variants = [
        (pixels, "settings", "weights"),
        (changed, "settings", "weights"),
        (pixels.reshape(1, 6, 4), "settings", "weights"),
        (pixels.view(torch.int8), "settings", "weights"),
        (pixels, "other settings", "weights"),
        (pixels, "settings", "other weights"),
    ]
    assert len({content_key(*variant) for variant in variants}) == len(variants)
    assert content_key(pixels, "s", "w") == content_key(pixels.transpose(1, 2).contiguous().transpose(1, 2), "s", "w")


def test_fingerprints_tell_weights_apart_and_notice_changes():
    torch.manual_seed(0)
    layer = torch.nn.Linear(50, 50)
    watch, before = WeightsWatch(layer), fingerprint(layer)
    assert watch.fingerprint() == before == fingerprint(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 50)).sum().backward()
    optimizer.step()
    assert watch.fingerprint() == fingerprint(layer) != before
    assert fingerprint(layer.to(torch.bfloat16)) == watch.fingerprint()
