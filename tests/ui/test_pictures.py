"""Open pictures: found by their id alone, for a while, within a bound."""

import threading

import pytest

pytest.importorskip("gradio", reason="needs the extra `app`")
torch = pytest.importorskip("torch")


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def opened(content=b"a", name="a.png", key="k", numbers=64):
    from sam_hf.inference.embedding_store import ImageEmbedding
    from sam_hf.ui.pictures import OpenPicture
    from sam_hf.ui.reading import PictureFile

    embedding = ImageEmbedding(torch.zeros(1, numbers, 1, 1), (2, 2), (2, 2), key, "r")
    return OpenPicture(PictureFile(content, name, (2, 2), content.hex()), "tiny", embedding)


def store(clock, **bounds):
    from sam_hf.ui.pictures import PictureStore

    return PictureStore(clock=clock, **bounds)


def test_a_picture_is_found_by_its_id_and_nothing_else(clock):
    from sam_hf.ui.pictures import PictureGone

    pictures = store(clock)
    name = pictures.add(opened())
    assert pictures.get(name).file.content == b"a"
    for wrong in (name[:-1], name + "x", name.lower(), "", None, 3, [name], {"a": 1}):
        with pytest.raises(PictureGone, match="this picture has expired, open it again"):
            pictures.get(wrong)


def test_ids_are_long_and_all_different(clock):
    pictures = store(clock)
    names = {pictures.add(opened()) for _ in range(200)}
    assert len(names) == 200 and all(len(name) >= 22 for name in names)


def test_a_picture_expires_after_its_last_use(clock):
    from sam_hf.ui.pictures import PictureGone

    pictures = store(clock, seconds=100)
    used, unused = pictures.add(opened(b"a", key="a")), pictures.add(opened(b"b", key="b"))
    clock.now = 90
    pictures.get(used)
    clock.now = 110
    assert pictures.get(used).file.content == b"a"
    with pytest.raises(PictureGone):
        pictures.get(unused)
    clock.now = 211
    with pytest.raises(PictureGone):
        pictures.get(used)
    assert len(pictures) == 0 and pictures.nbytes == 0


def test_the_ones_used_longest_ago_make_room(clock):
    from sam_hf.ui.pictures import PictureGone

    each = opened().nbytes
    pictures = store(clock, max_bytes=2 * each)
    first = pictures.add(opened(b"1", key="1"))
    second = pictures.add(opened(b"2", key="2"))
    pictures.get(first)
    third = pictures.add(opened(b"3", key="3"))
    assert pictures.get(first) and pictures.get(third)
    with pytest.raises(PictureGone):
        pictures.get(second)
    assert pictures.nbytes <= 2 * each


def test_so_many_different_ones_are_kept(clock):
    from sam_hf.ui.pictures import PictureGone

    pictures = store(clock, max_pictures=2)
    names = [pictures.add(opened(bytes([number]), key=str(number))) for number in (1, 2, 2, 3)]
    for name in names[1:]:
        pictures.get(name)
    with pytest.raises(PictureGone):
        pictures.get(names[0])


def test_ids_of_one_picture_do_not_grow_without_end(clock):
    pictures = store(clock, max_pictures=2)
    for _ in range(1000):
        pictures.add(opened())
    assert len(pictures) <= 128


def test_one_too_large_for_the_store_is_there_until_the_next(clock):
    pictures = store(clock, max_bytes=10)
    name = pictures.add(opened(b"x" * 50))
    assert pictures.get(name).file.content == b"x" * 50
    pictures.add(opened(b"y" * 50, key="other"))
    assert len(pictures) == 1


def test_what_several_open_is_kept_once_under_each_name(clock):
    pictures = store(clock)
    first = pictures.add(opened(b"same", "mine.png"))
    once = pictures.nbytes
    second = pictures.add(opened(b"same", "yours.png"))
    assert first != second and pictures.nbytes == once
    assert pictures.get(first).file.content is pictures.get(second).file.content
    assert (pictures.get(first).file.name, pictures.get(second).file.name) == ("mine.png", "yours.png")
    assert pictures.get(first).embedding is pictures.get(second).embedding


def test_bytes_are_counted_down_to_nothing(clock):
    pictures = store(clock, seconds=10)
    for index in range(30):
        clock.now += 1
        pictures.add(opened(bytes([index % 7]) * index, key=str(index % 7)))
    clock.now += 100
    pictures.add(opened(b"last", key="last"))
    assert len(pictures) == 1 and pictures.nbytes == opened(b"last").nbytes


def test_memory_goes_back_without_anybody_asking():
    import time

    from sam_hf.ui.pictures import PictureStore

    pictures = PictureStore(seconds=0.05)
    pictures.add(opened())
    deadline = time.monotonic() + 5
    while pictures.nbytes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pictures.nbytes == 0


def test_threads_get_their_own(clock):
    pictures, wrong = store(clock, max_bytes=50 * opened().nbytes), []

    def work(number):
        from sam_hf.ui.pictures import PictureGone

        content = bytes([number]) * 4
        for _ in range(100):
            name = pictures.add(opened(content, key=str(number)))
            try:
                if pictures.get(name).file.content != content:
                    wrong.append(number)
            except PictureGone:
                pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


@pytest.mark.parametrize("bounds", [{"max_bytes": 0}, {"seconds": 0}, {"max_pictures": 0}, {"max_bytes": -1}])
def test_bounds_have_to_be_positive(clock, bounds):
    with pytest.raises(ValueError, match=next(iter(bounds))):
        store(clock, **bounds)
