"""What is read out of a phrase, and what it does to instances."""

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
        "кот слева",
        "🐱",
    ],
)
def test_words_that_are_no_places_stay(phrase):
    assert read_phrase(phrase) == Reading(phrase)


@pytest.mark.parametrize(
    "phrase",
    ["left", "the left", "on the left", "the biggest", "top left", "a top", "two biggest", "the big", "the small"],
)
def test_a_place_alone_names_nothing(phrase):
    with pytest.raises(ValueError, match="says where, but not what"):
        read_phrase(phrase)


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
    assert singular("cup") is None


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
