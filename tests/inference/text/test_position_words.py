"""What is read out of a phrase, and what it does to instances."""

import time

import numpy as np
import pytest

from sam_hf.inference.text.instances import make_instance
from sam_hf.inference.text.plurals import read_amount, singular
from sam_hf.inference.text.position_words import Place, Reading, choose, read_phrase

LEFT, RIGHT, TOP, BOTTOM = (Place(kind) for kind in ("left", "right", "top", "bottom"))
MIDDLE, BIGGEST, SMALLEST = (Place(kind) for kind in ("middle", "biggest", "smallest"))


@pytest.mark.parametrize(
    ("phrase", "rest", "places"),
    [
        ("left cup", "cup", (LEFT,)),
        ("the top left cup", "the cup", (TOP, LEFT)),
        ("Upper-Left Window", "Window", (TOP, LEFT)),
        ("cup on the left", "cup", (LEFT,)),
        ("cup on the far right side of the image", "cup", (RIGHT,)),
        ("dog in the lower right corner", "dog", (BOTTOM, RIGHT)),
        ("star in the middle of the picture", "star", (MIDDLE,)),
        ("the central star", "the star", (MIDDLE,)),
        ("zebra top left", "zebra", (TOP, LEFT)),
        ("zebra, right", "zebra", (RIGHT,)),
        ("biggest red cup at the bottom", "red cup", (BIGGEST, BOTTOM)),
        ("the big cup", "the big cup", (BIGGEST,)),
        ("the little left cup", "the little cup", (SMALLEST, LEFT)),
        ("the smallest of the cups", "cup", (SMALLEST,)),
        ("the small of the cups", "cup", (SMALLEST,)),
        ("leftmost of the dogs", "dog", (LEFT,)),
        ("the largest of the fish", "fish", (BIGGEST,)),
        ("the left of the two cups", "cup", (LEFT,)),
        ("top left of these red cups", "red cup", (TOP, LEFT)),
        ("the left-most cup", "the cup", (LEFT,)),
        ("left most cup", "cup", (LEFT,)),
        ("cup, right most", "cup", (RIGHT,)),
        ("the left - cup", "the cup", (LEFT,)),
        ("left right-handed glove", "right-handed glove", (LEFT,)),
        ("second cup from the left", "cup", (Place("left", 2),)),
        ("the 3rd person from right", "the person", (Place("right", 3),)),
        ("cup second from the top", "cup", (Place("top", 2),)),
        ("leftmost hand", "hand", (LEFT,)),
        ("hand on the left", "hand", (LEFT,)),
        # punctuation and quotes around it
        ("cup on the left.", "cup", (LEFT,)),
        ("the left cup!", "the cup", (LEFT,)),
        ("cup right.", "cup", (RIGHT,)),
        ("zebra top left?", "zebra", (TOP, LEFT)),
        ("cup on the left,", "cup", (LEFT,)),
        ("cup in the middle of the picture...", "cup", (MIDDLE,)),
        ('"the left cup"', "the cup", (LEFT,)),
        ("“cup on the left.”", "cup", (LEFT,)),
        ("cup on the left'", "cup", (LEFT,)),
        ('the left sign "turn right".', 'the sign "turn right".', (LEFT,)),
        ("cup ,, left", "cup", (LEFT,)),
        ("left 1,000 dollar bill", "1,000 dollar bill", (LEFT,)),
        # far and the like
        ("the far left cup", "the cup", (LEFT,)),
        ("the very left cup", "the cup", (LEFT,)),
        ("the far-left cup", "the cup", (LEFT,)),
        ("the most right cup", "the cup", (RIGHT,)),
        ("the furthest upper left cup", "the cup", (TOP, LEFT)),
        ("the far left of the cups", "cup", (LEFT,)),
        ("the far left hand", "the hand", (LEFT,)),
        ("cup at the far right", "cup", (RIGHT,)),
        ("cup on the far-right side", "cup", (RIGHT,)),
        ("cup far right", "cup", (RIGHT,)),
        # ordinals
        ("the first cup from the left", "the cup", (LEFT,)),
        ("the 1st cup from the right", "the cup", (RIGHT,)),
        ("the very first cup from the left", "the cup", (LEFT,)),
        ("the last cup from the right", "the cup", (LEFT,)),
        ("Last cup from top", "cup", (BOTTOM,)),
        ("cup last from the left", "cup", (RIGHT,)),
        ("second from left cup", "cup", (Place("left", 2),)),
        ("the third from the right red cup", "the red cup", (Place("right", 3),)),
        ("the second from the left of the cups", "cup", (Place("left", 2),)),
        ("cup, the second from the left.", "cup", (Place("left", 2),)),
        ("second cup from the far left side of the picture", "cup", (Place("left", 2),)),
        ("the sixth cup from the left", "the cup", (Place("left", 6),)),
        ("6th cup from left", "cup", (Place("left", 6),)),
        ("seventh cup from the left", "cup", (Place("left", 7),)),
        ("8th cup from the left", "cup", (Place("left", 8),)),
        ("ninth cup from the left", "cup", (Place("left", 9),)),
        ("tenth cup from the bottom", "cup", (Place("bottom", 10),)),
        ("second biggest cup", "cup", (Place("biggest", 2),)),
        ("the third largest cup", "the cup", (Place("biggest", 3),)),
        ("the 2nd-smallest of the cups", "cup", (Place("smallest", 2),)),
        ("third left-most cup", "cup", (Place("left", 3),)),
        # what ties the end to the noun
        ("cup furthest to the left", "cup", (LEFT,)),
        ("cup farthest right", "cup", (RIGHT,)),
        ("ring furthest to the left", "ring", (LEFT,)),
        ("cup far to the left", "cup", (LEFT,)),
        ("cup closest to the left", "cup", (LEFT,)),
        ("cup all the way to the right", "cup", (RIGHT,)),
        ("the cup that is on the left", "the cup", (LEFT,)),
        ("the cup which is at the top", "the cup", (TOP,)),
        ("the cup that's on the left", "the cup", (LEFT,)),
        ("the king who’s to the left", "the king", (LEFT,)),
        ("the cup, which is furthest to the left", "the cup", (LEFT,)),
        ("the cup that is second from the left", "the cup", (Place("left", 2),)),
    ],
)
def test_places_are_taken_out(phrase, rest, places):
    reading = read_phrase(phrase)
    assert (reading.phrase, reading.places, reading.several) == (rest, places, False)


@pytest.mark.parametrize(
    "phrase",
    [
        "red mug",
        "the left hand",
        "right eye of the cat",
        "right angle",
        "top hat",
        "the middle finger",
        "the big wheel",
        "a big red star",
        "big red star",
        "table top",
        "shopping center",
        "car in the middle of the road",
        "left of the dog",
        "the top of the cake",
        "the middle of the road",
        "the right of way sign",
        "right of way signs",
        "bottom of the picture",
        "the left side of the road",
        "top half of the two cakes",
        "the small of the back",
        "right-handed glove",
        "the top-left-handed man",
        "upper-case letter",
        "the small-headed dog",
        "the middle-aged man",
        "man to the left of the dog",
        "cup left of the plate",
        "bus turning right",
        "man looking to the left",
        "leftover pizza",
        "dog from the left",
        "cup.",
        "table top.",
        "the left hand!",
        "man looking to the left.",
        'sign "turn left"',
        "sign 'keep to the right.'",
        "far cup",
        "the far side of the road",
        "bus turning far right",
        "the very big cup",
        "the second cup",
        "first aid kit",
        "the last supper",
        "the second most beautiful cup",
        "second-hand car from the left",
        "first and second cup from the left",
        "the second from the left in the row",
        "second cup from the left side of the road",
        "the cup that is red",
        "rıght cup",
        "ſecond biggest cup",
        "кот слева",
        "🐱",
    ],
)
def test_words_that_are_no_places_stay(phrase):
    assert read_phrase(phrase) == Reading(phrase)


@pytest.mark.parametrize(
    "phrase",
    "left|the left|on the left|the biggest|top left|a top|two biggest|the big|the small|left.|the far left|first left"
    "|second biggest|the last from the right|furthest to the left|that is on the left".split("|"),
)
def test_a_place_alone_names_nothing(phrase):
    with pytest.raises(ValueError, match="says where, but not what"):
        read_phrase(phrase)


MANY = 20_000


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("," * MANY, Reading("," * MANY)),
        ("cup" + "," * MANY + "left", Reading("cup", (LEFT,))),
        ("!" * MANY + "a", Reading("!" * MANY + "a")),
        ("left cups" + "!" * MANY, Reading("cup", (LEFT,), True)),
        ("left " * MANY + "cup", Reading("cup", (LEFT,))),
    ],
    ids=["commas", "commas within", "exclamation marks", "exclamation marks at the end", "left"],
)
def test_a_long_phrase_is_read_in_no_time(phrase, expected):
    start = time.perf_counter()
    reading = read_phrase(phrase)
    assert time.perf_counter() - start < 1
    assert reading == expected


def test_a_long_place_alone_is_refused_in_no_time_and_few_words():
    start = time.perf_counter()
    with pytest.raises(ValueError, match="says where, but not what") as refused:
        read_phrase("a" + "," * MANY + "left")
    assert time.perf_counter() - start < 1
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("phrase", "single", "limit"),
    [
        ("cups", "cup", None),
        ("all coins", "coin", None),
        ("two dogs", "dog", 2),
        ("3 red boxes", "red box", 3),
        ("both of the dishes", "dish", 2),
        ("every horse", "horse", None),
        ("people", "person", None),
        ("women in red coats", "woman in red coats", None),
        ("berries", "berry", None),
        ("buses", "bus", None),
        ("red houses", "red house", None),
        ("vases", "vase", None),
        ("prizes", "prize", None),
        ("horseshoes", "horseshoe", None),
        ("the left shoes", "the left shoe", None),
        ("two wine glasses", "wine glasses", 2),
        ("left and right mirrors", "left and right mirrors", None),
    ],
)
def test_plurals_ask_for_all(phrase, single, limit):
    amount = read_amount(phrase)
    assert (amount.several, amount.limit) == (True, limit)
    assert amount.phrase == single.removeprefix("the ")


@pytest.mark.parametrize(
    "phrase",
    "glass|bus|scissors|a pair of scissors|iris|cactus|gas|person's hat|cup with flowers|a cup|this series|one of them"
    "|dress|wine glasses|x|chien|S".split("|"),
)
def test_what_only_looks_like_a_plural_asks_for_one(phrase):
    assert read_amount(phrase) == (phrase, False, None)


def test_singular_keeps_capitals_and_punctuation():
    assert singular("Cups,") == "Cup,"
    assert singular("Churches") == "Church"
    assert singular("Women”).") == "woman”)."
    assert singular("cup") is None
    assert singular("!" * MANY) is None


def test_what_has_too_many_digits_is_no_number():
    phrase = "9" * 5000 + " cup"
    assert read_amount(phrase) == (phrase, False, None)


def _instances(*boxes, scores=None, size=(60, 100)):
    """One filled rectangle per xyxy."""
    found = []
    for index, (left, top, right, bottom) in enumerate(boxes):
        mask = np.zeros(size, dtype=bool)
        mask[top:bottom, left:right] = True
        score = 0.9 - 0.01 * index if scores is None else scores[index]
        found.append(make_instance(mask, np.zeros((2, 2)), score, score, 1.0))
    return found


def _chosen(phrase, instances, several=None, size=(60, 100)):
    reading = read_phrase(phrase)
    chosen = choose(instances, reading, size, reading.several if several is None else several)
    return [instances.index(one) for one in chosen]


ROW = [(70, 20, 90, 40), (5, 22, 20, 38), (40, 25, 52, 35)]  # right and large, left, middle and small


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("cup", [0]),
        ("left cup", [1]),
        ("rightmost cup", [0]),
        ("middle cup", [2]),
        ("biggest cup", [0]),
        ("the small cup", [2]),
        ("second cup from the left", [2]),
        ("third cup from the left", [0]),
        ("fourth cup from the left", []),
        ("first cup from the left", [1]),
        ("last cup from the left", [0]),
        ("second from right cup", [2]),
        ("last two cups from the left", [0, 2]),
        ("second biggest cup", [1]),
        ("third smallest cup", [0]),
        ("two biggest cups", [0, 1]),
        ("two biggest of the cups", [0, 1]),
        ("the left of the cups", [1]),
        ("cups", [0, 1, 2]),
        ("two cups", [0, 1]),
        ("cups on the left", [1, 2]),
        ("smallest cups", [2, 1]),
    ],
)
def test_places_choose_among_instances(phrase, expected):
    assert _chosen(phrase, _instances(*ROW)) == expected


def test_two_words_count_together():
    corners = _instances((0, 0, 10, 10), (90, 0, 100, 10), (0, 50, 10, 60), (90, 50, 100, 60))
    assert [_chosen(f"{place} cup", corners) for place in ("top left", "top right", "bottom left", "lower right")] == [
        [0],
        [1],
        [2],
        [3],
    ]


def test_what_hardly_fits_the_phrase_is_no_candidate():
    found = _instances(*ROW, scores=[0.9, 0.2, 0.5])
    assert _chosen("left cup", found) == [2]


def test_one_and_all_go_before_the_plural():
    found = _instances(*ROW)
    assert _chosen("two cups", found, several=False) == [0]
    assert _chosen("cup", found, several=True) == [0, 1, 2]
    assert _chosen("left cup", found, several=True) == [1, 2]


def test_nothing_found_stays_nothing():
    assert _chosen("left cup", []) == []
