"""The scene generator: purity, masks, phrases, hold-outs."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from sam_hf.data.colors import COLOURS, PALETTE, colour_indices
from sam_hf.data.crops import crop
from sam_hf.data.glyph_table import glyph_entries
from sam_hf.data.glyphs import GlyphAtlas, find_emoji_font
from sam_hf.data.shapes import HELD_OUT_PAIRS, SHAPES
from sam_hf.data.synthetic import HELD_OUT_GLYPHS, SceneGenerator, vocabulary
from sam_hf.data.textures import PATTERNS

try:
    FONT = find_emoji_font()
except FileNotFoundError as error:
    FONT, REASON = None, str(error)
else:
    REASON = ""
needs_font = pytest.mark.skipif(FONT is None, reason=REASON)
FONTS = [pytest.param(False, id="shapes"), pytest.param(None, id="emoji", marks=needs_font)]

WORDS = frozenset(vocabulary("test"))
SIZES = {"big", "large", "small", "little"}


def scenes(count: int, split: str = "train", font=None, size: int = 64, seed: int = 0):
    generator = SceneGenerator(size, split, seed, font)
    return [generator(index) for index in range(count)]


def digest(scene) -> bytes:
    parts = [scene.image.tobytes(), repr(scene.absent_phrases).encode()]
    for o in scene.objects:
        parts += [o.mask.tobytes(), repr((o.phrases, o.kind, o.parent, o.held_out)).encode()]
    return b"".join(parts)


def parse(phrase: str):
    """A second reading of the grammar: size, colours, pattern, noun, and the phrase of the enclosing object."""
    phrase, _, whole = phrase.partition(" inside the ")
    words = phrase.split()
    if words[0] in ("a", "an", "the"):
        words = words[1:]
    size = words.pop(0) if words[0] in SIZES else None
    colours, pattern = [], None
    adjective = re.match(rf"((?:{'|'.join(COLOURS)})(?: and (?:{'|'.join(COLOURS)}))?) ", " ".join(words) + " ")
    if adjective and len(words) > len(adjective[1].split()):
        rest = " ".join(words[len(adjective[1].split()) :])
        if " ".join(words) not in WORDS or rest in SHAPES or rest == "shape":
            colours, words = adjective[1].split(" and "), rest.split()
    if words[0] in PATTERNS:
        pattern = words.pop(0)
    return size, colours, pattern, " ".join(words), whole or None


def fits(o, phrase: str) -> bool:
    """Whether the words, without size and place, are surely true of an object."""
    _, colours, pattern, noun, _ = parse(phrase)
    a = o.attributes
    said = [c for c in (a.colour, a.second_colour) if c]
    return noun in a.nouns and colours == said[: len(colours)] and pattern in (None, a.pattern)


@pytest.mark.parametrize("font", FONTS)
def test_scene_is_a_function_of_its_arguments(font):
    generator = SceneGenerator(64, "test", 3, font)
    forward = [digest(generator(i)) for i in range(6)]
    fresh = SceneGenerator(64, "test", 3, font)
    assert [digest(fresh(i)) for i in reversed(range(6))][::-1] == forward
    assert digest(pickle.loads(pickle.dumps(generator))(5)) == forward[5]
    assert len(set(forward)) == 6
    for other in (SceneGenerator(64, "train", 3, font), SceneGenerator(64, "test", 4, font)):
        assert digest(other(0)) != forward[0]


def test_scene_is_the_same_in_another_process():
    code = (
        "import hashlib; from sam_hf.data.synthetic import SceneGenerator;"
        "s = SceneGenerator(64, 'train', 1, False)(7);"
        "print(hashlib.sha256(s.image.tobytes() + repr([o.phrases for o in s.objects]).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], env=None, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("font", FONTS)
def test_masks_are_visible_pixels_of_wholes_and_parts(font):
    kinds, parts_of_parts = set(), 0
    for scene in scenes(150, font=font):
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        claimed = np.zeros((64, 64), int)
        for k, o in enumerate(scene.objects):
            kinds.add(o.kind)
            assert o.mask.shape == (64, 64) and o.mask.dtype == bool
            assert o.mask.mean() >= 0.003
            assert (o.kind == "part") or o.parent is None
            if o.parent is None:
                own = o.mask if o.kind != "part" else np.zeros_like(o.mask)  # the whole may have been dropped
                claimed += own
            else:
                assert o.parent < k
                assert not (o.mask & ~scene.objects[o.parent].mask).any()
                assert o.mask.sum() < scene.objects[o.parent].mask.sum()
                parts_of_parts += scene.objects[o.parent].parent is not None
        assert claimed.max() <= 1, "a pixel shows one top-level object at most"
    assert {"shape", "part"} <= kinds and parts_of_parts > 0


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("font", FONTS)
def test_phrases_are_true_of_one_object(font, split):
    plain = sized = placed = 0
    for scene in scenes(80, split, font):
        for o in scene.objects:
            assert len(o.phrases) <= 6 and len(set(o.phrases)) == len(o.phrases)
            for phrase in o.phrases:
                assert fits(o, phrase), (phrase, o.attributes)
                size, _, _, _, whole = parse(phrase)
                rivals = [other for other in scene.objects if other is not o and fits(other, phrase)]
                if size:
                    sized += 1
                    larger = size in ("big", "large")
                    assert all((o.mask.sum() > r.mask.sum()) == larger for r in rivals)
                elif whole:
                    placed += 1
                    assert o.kind == "part"
                    if o.parent is not None and fits(scene.objects[o.parent], whole):
                        assert not any(r.parent == o.parent for r in rivals)
                else:
                    plain += 1
                    assert not rivals, (phrase, [r.attributes.noun for r in rivals])
    assert plain > 200 and sized > 0 and placed > 0


@pytest.mark.parametrize("font", FONTS)
def test_most_objects_have_phrases(font):
    counts = [len(o.phrases) for scene in scenes(80, font=font) for o in scene.objects]
    assert np.mean([c > 0 for c in counts]) > 0.9


def test_more_absent_phrases_on_request_change_nothing_else():
    few, many = (SceneGenerator(size=64, seed=3, font=False, absent=count)(1) for count in (None, 20))
    assert np.array_equal(few.image, many.image)
    assert many.absent_phrases[: len(few.absent_phrases)] == few.absent_phrases
    assert len(set(many.absent_phrases)) == 20
    with pytest.raises(ValueError, match="absent"):
        SceneGenerator(absent=-1)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("font", FONTS)
def test_absent_phrases_fit_nothing(font, split):
    hard = 0
    for scene in scenes(60, split, font):
        assert 2 <= len(scene.absent_phrases) <= 4
        for phrase in scene.absent_phrases:
            assert not any(fits(o, phrase) for o in scene.objects), phrase
            hard += parse(phrase)[3] in {o.attributes.noun for o in scene.objects}
    assert hard > 10, "some must have the right noun and the wrong colour"


def test_held_out_pairs_never_in_train():
    seen_in_test = set()
    for scene in scenes(300, "train", False):
        for o in scene.objects:
            assert not o.held_out
            a = o.attributes
            assert (a.colour, a.noun) not in HELD_OUT_PAIRS and (a.second_colour, a.noun) not in HELD_OUT_PAIRS
        said = [p for o in scene.objects for p in o.phrases] + list(scene.absent_phrases)
        assert not any((colour, parse(p)[3]) in HELD_OUT_PAIRS for p in said for colour in parse(p)[1])
    for scene in scenes(100, "test", False):
        seen_in_test |= {(o.attributes.colour, o.attributes.noun) for o in scene.objects if o.held_out}
    assert seen_in_test - {(None, n) for n in SHAPES} <= HELD_OUT_PAIRS and len(seen_in_test) > 5


@needs_font
def test_held_out_glyphs_never_in_train():
    unseen = {noun for entry in glyph_entries() if entry.held_out for noun in entry.nouns}
    assert set(HELD_OUT_GLYPHS) <= unseen
    for scene in scenes(300, "train"):
        assert not any(o.held_out or unseen & set(o.attributes.nouns) for o in scene.objects)
        said = [p for o in scene.objects for p in o.phrases] + list(scene.absent_phrases)
        assert not any(parse(p)[3] in unseen for p in said)
    test = [o for scene in scenes(120, "test") for o in scene.objects]
    share = np.mean([o.held_out for o in test])
    assert 0.35 < share < 0.65
    assert all(o.attributes.noun in unseen for o in test if o.held_out and "shape" not in o.attributes.nouns)


@needs_font
def test_every_curated_glyph_can_be_drawn():
    atlas = GlyphAtlas(FONT)
    for entry in glyph_entries():
        glyph = atlas(entry)
        full = glyph.levels[0]
        assert (full[..., :3] <= full[..., 3:].astype(int) + 1).all(), "premultiplied"
        assert max(full.shape[:2]) > 60


def test_table_of_glyphs():
    entries = glyph_entries()
    assert len({e.character for e in entries}) == len(entries) >= 250
    families = {e.family: {x.held_out for x in entries if x.family == e.family} for e in entries}
    assert all(len(flags) == 1 for flags in families.values())
    held = {noun for e in entries if e.held_out for noun in e.nouns}
    assert not held & {noun for e in entries if not e.held_out for noun in e.nouns}
    assert 0.05 < np.mean([e.held_out for e in entries]) < 0.2
    assert held <= set(vocabulary("test")) and not held & set(vocabulary("train"))


def test_palette_colours_are_recognised():
    names = [COLOURS[i] for i in colour_indices(np.array(list(PALETTE.values()), np.uint8))]
    assert names == list(COLOURS)


def test_missing_font_is_named(monkeypatch, tmp_path):
    missing = tmp_path / "none.ttf"
    with pytest.raises(FileNotFoundError, match=r"none\.ttf"):
        SceneGenerator(64, font=missing)
    monkeypatch.setenv("SAM_HF_EMOJI_FONT", str(missing))
    with pytest.raises(FileNotFoundError, match="SAM_HF_EMOJI_FONT"):
        SceneGenerator(64)


@pytest.mark.parametrize("arguments", [{"size": 8}, {"split": "val"}, {"seed": -1}, {"font": True}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SceneGenerator(**{"font": False, **arguments})


def test_negative_index():
    with pytest.raises(ValueError, match="index"):
        SceneGenerator(64, font=False)(-1)


def test_crop_is_centred_and_scaled():
    image = np.zeros((60, 80, 3), np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:40] = True
    image[mask] = 200
    image[~mask] = 50
    picture, cut = crop(image, mask, scale=2.0, size=40)
    assert picture.shape == (40, 40, 3) and cut.shape == (40, 40)
    assert abs(int(cut.sum()) - 200) <= 15  # 20x10 of a 40x40 square
    rows, columns = np.nonzero(cut)
    assert abs(rows.mean() - 19.5) < 0.6 and abs(columns.mean() - 19.5) < 0.6
    assert (picture[cut].mean(), picture[~cut].mean()) == pytest.approx((200, 50), abs=6)
    zeroed, _ = crop(image, mask, scale=2.0, size=40, zero_background=True)
    assert not zeroed[~cut].any() and zeroed[cut].any()


def test_crop_beyond_the_image_repeats_the_edge_and_refuses_empty_masks():
    image = np.full((32, 32, 3), 90, np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[:10, :10] = True
    picture, cut = crop(image, mask, scale=2.0, size=32)
    assert (picture == 90).all() and cut.any() and not cut[0].any()
    with pytest.raises(ValueError, match="mask"):
        crop(image, np.zeros((32, 32), bool))
    with pytest.raises(ValueError, match="mask"):
        crop(image, np.ones((30, 32), bool))
