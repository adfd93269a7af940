"""How surely a phrase names a mask: judged per mask, against background and negatives, in bounded memory."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sam_hf.inference.text import ranking
from sam_hf.inference.text.ranking import RANKING_VIEWS, by_score, mask_vectors, pair_log_odds, says, text_log_odds
from sam_hf.inference.text.templates import BACKGROUND
from sam_hf.masks import rle


@pytest.fixture(scope="module")
def scene(draw):
    image, masks = draw([("red", 40, 40, 22), ("blue", 110, 70, 26), ("red", 60, 95, 15)])
    return torch.from_numpy(image).permute(2, 0, 1), masks


def rank(clip, pixels, masks, phrases, negatives=(), views=RANKING_VIEWS, **options):
    """(n_masks, n_phrases) probabilities."""
    return (
        text_log_odds(clip, mask_vectors(clip, pixels, masks, views), phrases, negatives, **options).sigmoid().numpy()
    )


def test_phrases_are_true_of_their_masks_and_of_no_other(colour_clip, scene):
    found = rank(colour_clip, *scene, ["a red thing", "blue", "something green"])
    assert found.shape == (3, 3) and found.dtype == np.float32
    assert (found[[0, 2], 0] > 0.9).all() and found[1, 0] < 0.1
    assert found[1, 1] > 0.9 and (found[[0, 2], 1] < 0.1).all()
    assert (found[:, 2] < 0.1).all()  # nothing is green: no mask has to win


def test_neither_other_masks_nor_other_phrases_change_the_answer(colour_clip, scene):
    pixels, masks = scene
    together = rank(colour_clip, pixels, masks, ["red", "reddish red", "blue"])
    alone = rank(colour_clip, pixels, masks[:1], ["red"])
    np.testing.assert_allclose(together[0, 0], alone[0, 0], rtol=1e-5)
    np.testing.assert_allclose(together[:, 0], together[:, 1], rtol=1e-5)


def test_negatives_take_what_is_theirs(colour_clip, scene):
    plain = rank(colour_clip, *scene, ["red blue"])  # violet, as it were: half true of both
    against = rank(colour_clip, *scene, ["red blue"], negatives=["blue"])
    assert against[1, 0] < 0.5 * plain[1, 0]
    np.testing.assert_allclose(against[0, 0], plain[0, 0], rtol=0.05)


def test_a_background_word_is_no_rival_of_itself(colour_clip, scene):
    grey = ["sky"]  # to this CLIP the same as every word of the background
    common = {"views": ("crop",), "background": ("sky", "red wall")}
    assert rank(colour_clip, *scene, ["dragon"], **common)[1, 0] < 0.55  # "sky" is as good
    assert rank(colour_clip, *scene, grey, **common)[1, 0] > 0.9
    assert rank(colour_clip, *scene, ["The  SKY there"], **common)[1, 0] > 0.9
    assert rank(colour_clip, *scene, ["sky."], **common)[1, 0] > 0.9
    assert rank(colour_clip, *scene, ["skyline"], **common)[1, 0] < 0.55
    # The user's own negative stays, whatever words it has.
    assert rank(colour_clip, *scene, ["sky"], negatives=["sky"], **common)[1, 0] < 0.55


@pytest.mark.parametrize(
    ("phrase", "word", "expected"),
    [
        ("the sky", "sky", True),
        ("(Blue) sky.", "Sky", True),
        ("sky-blue cup", "sky", True),
        ("a red  wall, far away", "red wall", True),
        ("red brick wall", "red wall", False),
        ("skyline", "sky", False),
        ("дом и небо!", "небо", True),
        ("🌳", "🌳", True),  # no words, and yet the same
        ("🌳", "🌊", False),
        ("sky", "🌊", False),
    ],
)
def test_a_phrase_says_whole_words(phrase, word, expected):
    assert says(phrase, word) is expected


def test_masks_may_be_encoded(colour_clip, scene):
    pixels, masks = scene
    expected = rank(colour_clip, pixels, masks, ["red"])
    np.testing.assert_array_equal(rank(colour_clip, pixels, [rle.encode(mask) for mask in masks], ["red"]), expected)


def test_the_views_asked_for_are_shown(colour_clip, scene):
    pixels, masks = scene
    one = mask_vectors(colour_clip, pixels, masks, ["crop"])
    other = mask_vectors(colour_clip, pixels, masks, ["dimmed"])
    both = mask_vectors(colour_clip, pixels, masks, ["crop", "dimmed"])
    assert colour_clip.calls["pictures"] == 3 + 3 + 6
    torch.testing.assert_close(both, (one + other) / 2)
    assert not torch.allclose(one, other)


def test_an_empty_mask_means_nothing(colour_clip, scene):
    pixels, masks = scene
    found = rank(colour_clip, pixels, [masks[0], np.zeros_like(masks[0])], ["red", "blue"])
    assert (found[1] == 0).all() and found[0, 0] > 0.9
    assert rank(colour_clip, pixels, [], ["red"]).shape == (0, 1)
    assert rank(colour_clip, pixels, [np.zeros_like(masks[0])], ["red"]).tolist() == [[0.0]]


def test_many_masks_go_in_portions(colour_clip, scene, monkeypatch):
    pixels, masks = scene
    sizes = []
    drawn = ranking.make_views
    monkeypatch.setattr(ranking, "make_views", lambda p, m, *rest: sizes.append(len(m)) or drawn(p, m, *rest))
    many = [masks[i % 3] for i in range(40)]
    vectors = mask_vectors(colour_clip, pixels, many, ["crop"])
    assert sizes == [16, 16, 8]
    torch.testing.assert_close(vectors, vectors[:3].repeat(14, 1)[:40])


def test_masks_seen_before_are_not_looked_at_again(colour_clip, scene):
    pixels, masks = scene
    expected = mask_vectors(colour_clip, pixels, [*masks, masks[0], masks[0] & False], ["crop"])
    calls, kept = colour_clip.calls, {"views": ["crop"], "key": "picture"}
    calls["pictures"] = 0
    torch.testing.assert_close(mask_vectors(colour_clip, pixels, masks[:1], **kept), expected[:1])
    assert calls["pictures"] == 1
    again = [*masks[:2], rle.encode(masks[2]), masks[0].copy(), masks[0] & False]
    for _ in range(2):
        torch.testing.assert_close(mask_vectors(colour_clip, pixels, again, **kept), expected)
        assert calls["pictures"] == 3  # what is new, and that once
    assert mask_vectors(colour_clip, pixels, [], **kept).shape == (0, colour_clip.width)
    for other in ({"key": "another"}, {"views": ["dimmed"]}, {"key": None}):
        calls["pictures"] = 0
        mask_vectors(colour_clip, pixels, masks, **(kept | other))
        assert calls["pictures"] == 3, other
    colour_clip.revision = "other weights"
    mask_vectors(colour_clip, pixels, masks, **kept)
    assert calls["pictures"] == 6


def test_what_is_kept_of_masks_is_bounded(colour_clip, scene):
    pixels, _ = scene
    colour_clip.masks_seen.max_bytes = 4 * (4 * colour_clip.width + 500)
    masks = [np.roll(scene[1][0], shift, axis=1) for shift in range(8)]
    for some in (masks, masks[4:], masks[:1]):
        vectors = mask_vectors(colour_clip, pixels, some, ["crop"], key="picture")
        torch.testing.assert_close(vectors, mask_vectors(colour_clip, pixels, some, ["crop"]))
    statistics = colour_clip.masks_seen.statistics()
    assert statistics.entries == 4 and statistics.nbytes <= colour_clip.masks_seen.max_bytes
    # Nor does one vector keep the memory of all that were made with it.
    kept = colour_clip.masks_seen._kept.values()
    assert all(one.vector.untyped_storage().nbytes() == 4 * colour_clip.width for one in kept)


def test_threads_share_what_was_seen(colour_clip, scene):
    pixels, masks = scene
    expected = mask_vectors(colour_clip, pixels, masks, ["crop"])
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: mask_vectors(colour_clip, pixels, masks, ["crop"], "picture"), range(20)))
    assert all(torch.equal(one, expected) for one in found)


def test_log_odds_still_tell_apart_what_probabilities_do_not(colour_clip):
    vectors = colour_clip.texts(["red", "red red blue"])
    odds = text_log_odds(colour_clip, vectors, ["red"], scale=200.0)
    assert odds.sigmoid().tolist() == [[1.0], [1.0]] and odds[0] > odds[1]


def test_sentences_and_scale_are_the_clips_own(colour_clip, monkeypatch):
    vectors = colour_clip.texts(["red"])
    usual = text_log_odds(colour_clip, vectors, ["red"])
    torch.testing.assert_close(usual, text_log_odds(colour_clip, vectors, ["red"], scale=20.0))
    monkeypatch.setattr(type(colour_clip), "logit_scale", 10.0)
    assert text_log_odds(colour_clip, vectors, ["red"]) < usual
    asked = []
    texts = colour_clip.texts
    monkeypatch.setattr(colour_clip, "texts", lambda phrases, templates: asked.append(templates) or texts(phrases))
    monkeypatch.setattr(type(colour_clip), "templates", ("a {}",))
    text_log_odds(colour_clip, vectors, ["red"])
    text_log_odds(colour_clip, vectors, ["red"], templates=("the {}",))
    assert set(asked[:2]) == {("a {}",)} and set(asked[2:]) == {("the {}",)}


def test_a_clip_with_a_bias_judges_each_phrase_by_itself(colour_clip, monkeypatch):
    monkeypatch.setattr(type(colour_clip), "logit_bias", -7.0)
    seen = torch.cat([colour_clip.texts(["red"]), torch.zeros(1, 4)])
    odds = pair_log_odds(colour_clip, seen, ["red", "blue"])
    cosine = float(seen[0] @ colour_clip.texts(["blue"])[0])
    torch.testing.assert_close(odds[0], torch.tensor([20.0 - 7.0, 20.0 * cosine - 7.0]))
    assert (odds[1] == -torch.inf).all()  # an empty mask shows nothing
    assert (pair_log_odds(colour_clip, seen, ["red"]) == odds[:, :1]).all()


def test_order_of_what_is_all_certain():
    order, scores, probabilities = by_score(np.array([90.0, 80.0, 99.0]), [1.0, 1.0, 0.5], 1.0)
    assert order == [0, 1, 2] and scores.tolist() == [1.0, 1.0, 0.5] and probabilities.tolist() == [1.0] * 3
    order, scores, _ = by_score(np.array([-2.0, -900.0, -950.0]), [0.1, 0.9, 0.9], 0.0)
    assert order == [0, 1, 2] and np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("phrases", "options", "error", "words"),
    [
        (["red"], {"background": ()}, ValueError, "background.*negatives"),
        (["red sky"], {"background": ("sky",)}, ValueError, "background.*'red sky'"),
    ],
)
def test_what_cannot_be_ranked_is_said(colour_clip, scene, phrases, options, error, words):
    with pytest.raises(error, match=words):
        rank(colour_clip, *scene, phrases, views=("crop",), **options)


def test_background_words_are_words():
    assert len(BACKGROUND) == len({word.casefold() for word in BACKGROUND})
