"""The encoder says what open_clip says, keeps what it has said within bounds, and has an answer to any text."""

import functools
import threading
import warnings

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from sam_hf.inference.text import clip_encoder
from sam_hf.inference.text.clip_encoder import ClipEncoder
from sam_hf.inference.text.ranking import mask_vectors
from sam_hf.inference.text.templates import BACKGROUND, EVERYDAY, PHOTO, PLAIN, SCENE, fill
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.model.text_prompts import UnreadablePhrase

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SIZES = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 10, "vocab_size": 1000, "width": 16, "heads": 2, "layers": 1},
}


def small_clip(**options):
    torch.manual_seed(0)
    clip = CLIP(**(SIZES | options)).eval()
    with torch.no_grad():
        for name, weight in clip.named_parameters():
            if name != "logit_scale":
                weight.add_(0.2 * torch.randn_like(weight))
    return clip


@pytest.fixture
def encoder():
    return ClipEncoder(small_clip(), SamTokenizer(1000, 10), MEAN, STD, "small")


@pytest.fixture
def calls(encoder, monkeypatch):
    """How many texts and pictures each call of the towers took."""
    taken = {"encode_text": [], "encode_image": [], "conv1": []}
    for name in ("encode_text", "encode_image"):
        tower = getattr(encoder.clip, name)
        monkeypatch.setattr(
            encoder.clip, name, lambda x, name=name, tower=tower: (taken[name].append(len(x)), tower(x))[1]
        )
    encoder.clip.visual.conv1.register_forward_hook(lambda *_: taken["conv1"].append(1))
    return taken


def pictures(count, side=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


# --- texts -------------------------------------------------------------------------------------------------------


def test_texts_are_what_the_tower_says(encoder):
    phrases = ["a red mug", "Zebra!"]
    ids = SamTokenizer(1000, 10)(phrases)["input_ids"]
    with torch.no_grad():
        expected = F.normalize(encoder.clip.encode_text(ids), dim=-1)
    vectors = encoder.texts(phrases)
    assert vectors.dtype == torch.float32 and vectors.device.type == "cpu"
    torch.testing.assert_close(vectors, expected)
    assert encoder.texts([]).shape == (0, encoder.width) == (0, 12)


def test_templates_give_the_mean_direction(encoder):
    each = torch.cat([encoder.texts([template.replace("{}", "mug")]) for template in ("{}", "a {}.", "my {}")])
    torch.testing.assert_close(
        encoder.texts(["mug"], ("{}", "a {}.", "my {}")), F.normalize(each.mean(0, keepdim=True), dim=-1)
    )


def test_a_phrase_asked_again_costs_nothing(encoder, calls):
    first = encoder.texts(["mug", "cup", "mug"])
    assert calls["encode_text"] == [2]
    again = encoder.texts(["cup", "mug"])
    assert calls["encode_text"] == [2] and torch.equal(again, first[[1, 0]])
    encoder.texts(["mug"], ("a {}",))  # another sentence is another question
    assert calls["encode_text"] == [2, 1]
    with torch.no_grad():
        encoder.clip.token_embedding.weight.add_(0.1 * torch.randn_like(encoder.clip.token_embedding.weight))
    assert not torch.allclose(encoder.texts(["mug"]), first[:1])  # and so are other weights


@pytest.mark.filterwarnings("ignore:phrases")
def test_kept_phrases_and_batches_are_bounded(encoder, calls, monkeypatch):
    monkeypatch.setattr(clip_encoder, "TEXTS_KEPT", 3)
    monkeypatch.setattr(clip_encoder, "TEXTS_AT_ONCE", 4)
    words = [f"thing {letter}" for letter in "abcdefghij"]
    vectors = encoder.texts(words)
    assert max(calls["encode_text"]) == 4 and len(encoder._vectors) == 3
    encoder.texts(["mug"], SCENE)  # more sentences than fit
    assert max(calls["encode_text"]) == 4
    torch.testing.assert_close(encoder.texts(words), vectors)


def test_long_text_is_cut_and_the_cut_is_quoted_every_time(encoder):
    long = "a red mug on the table of the house of my aunt in paris"
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"phrases\[1\]: the text is too long for small.*paris"):
            vectors = encoder.texts(["mug", long])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.texts(["a red mug"])
        encoder.texts(["a red mug"], ("{} on the table of the house of my aunt in paris",))  # not the phrase's end
    with pytest.warns(UserWarning):
        torch.testing.assert_close(vectors[1:], encoder.texts([long + " in france"]))
    with pytest.warns(UserWarning, match=r"\.\.\. \(\d+ characters\)"):
        encoder.texts(["mug " * 200])


@pytest.mark.parametrize("text", ["", "  ", "\x00", "\t\n\x00 "])
def test_empty_text_is_refused_by_its_place(encoder, text):
    with pytest.raises(ValueError, match=r"^phrases\[1\]: expected a phrase, got an empty text$"):
        encoder.texts(["mug", text])


def test_sentences_and_scale_are_what_the_clip_was_trained_with(encoder):
    assert (encoder.templates, encoder.dense_scale) == (PLAIN, encoder.logit_scale) and encoder.has_dense_features
    clip = small_clip(text_cfg=SIZES["text_cfg"] | {"vocab_size": 49408})
    of_captions = ClipEncoder(clip, open_clip.SimpleTokenizer(context_length=10), MEAN, STD)
    assert (of_captions.templates, of_captions.dense_scale) == (PHOTO, 40.0)
    clip.visual.attn_pool = torch.nn.Identity()
    assert not of_captions.has_dense_features


def test_what_is_no_text_is_refused(encoder):
    with pytest.raises(ValueError, match="lone surrogate"):
        encoder.texts(["mug \ud800"])
    with pytest.raises(UnreadablePhrase, match="no token from '&nbsp;'"):
        encoder.texts(["&nbsp;"])
    with pytest.raises(TypeError, match=r"phrases\[0\]: expected a string, got NoneType"):
        encoder.texts([None])
    for wrong in ("a mug", None, 3):
        with pytest.raises(TypeError, match="phrases: expected a list"):
            encoder.texts(wrong)
    with pytest.raises(ValueError, match=r"templates\[1\].*got 'a thing'"):
        encoder.texts(["mug"], ("{}", "a thing"))
    for wrong in ((), "a {}"):
        with pytest.raises(TypeError, match="templates"):
            encoder.texts(["mug"], wrong)


@pytest.mark.filterwarnings("ignore:phrases")
@pytest.mark.parametrize("text", ["🐕", "كلب أحمر", "שלום", "犬", "👩‍👩‍👧", "e\u0301", "{}", "100 %"])
def test_any_script_has_a_vector(encoder, text):
    vector = encoder.texts([text])
    assert vector.norm().item() == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(vector, encoder.texts(["dog"]))


@pytest.mark.filterwarnings("ignore:phrases")
def test_control_characters_are_spaces_and_control_words_are_words(encoder):
    assert torch.equal(encoder.texts(["red\x00mug\n"]), encoder.texts(["red mug"]))
    short = encoder.texts(["mug <end_of_text> dog", "mug end_of_text dog", "mug"])
    assert torch.equal(short[0], short[1]) and not torch.allclose(short[0], short[2])


def test_openai_vocabulary_is_encoded_as_open_clip_does():
    sizes = SIZES["text_cfg"] | {"vocab_size": 49408}
    clip = small_clip(text_cfg=sizes)
    tokenizer = open_clip.SimpleTokenizer(context_length=10)
    phrases = ["A photo of a  zebra.", "🐕 & café", "it's 42"]
    with torch.no_grad():
        expected = F.normalize(clip.encode_text(tokenizer(phrases)), dim=-1)
    torch.testing.assert_close(ClipEncoder(clip, tokenizer, MEAN, STD).texts(phrases), expected)


def test_tokenizers_of_transformers_work_and_say_what_they_cut(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"a red mug on the table of my aunt in paris".split()]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=10)
    encoder = ClipEncoder(small_clip(), tokenizer, MEAN, STD)
    with pytest.warns(UserWarning, match="this was cut off: 'aunt in paris'"):
        cut = encoder.texts(["a red mug on the table of my aunt in paris"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(encoder.texts(["a red mug on the table of my"]), cut)


def test_templates_hold_phrases_and_keep_one_article():
    assert fill("a photo of a {}.", "the red mug") == "a photo of a red mug."
    assert fill("art of {}", "the red mug") == "art of the red mug"
    assert fill("a {}", "a") == "a a" and fill("the {}", "anteater") == "the anteater"
    assert fill("{}", "an {}") == "an {}"
    assert all(template.count("{}") == 1 for template in (*PLAIN, *PHOTO, *SCENE))
    assert len(set(BACKGROUND)) == len(BACKGROUND) and len(PHOTO) == 7
    assert len(set(EVERYDAY)) == len(EVERYDAY) and all(word == word.strip() != "" for word in EVERYDAY)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_are_what_the_tower_says(encoder, calls):
    some = pictures(5)
    normalised = (some.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = F.normalize(encoder.clip.visual(normalised), dim=-1)
    torch.testing.assert_close(encoder.pictures(some, batch_size=2), expected)
    assert calls["encode_image"] == [2, 2, 1]  # never more on the device than a batch
    assert encoder.pictures(some[:0]).shape == (0, 12)
    assert encoder.image_size == 32 and encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert encoder.logit_bias is None
    encoder.clip.logit_bias = torch.nn.Parameter(torch.tensor(-10.5))
    assert encoder.logit_bias == -10.5
    encoder.clip.logit_bias = None


def test_wrong_pictures_are_refused(encoder):
    for wrong in (pictures(2).float(), pictures(2, side=16), pictures(2)[0], pictures(2).numpy()):
        with pytest.raises(ValueError, match=r"pictures must be a tensor \(n, 3, 32, 32\) uint8"):
            encoder.pictures(wrong)
    with pytest.raises(ValueError, match="batch_size"):
        encoder.pictures(pictures(2), batch_size=0)
    for wrong in (pictures(1), pictures(1)[0].float(), pictures(1)[0].numpy()):
        with pytest.raises(ValueError, match="picture must be"):
            encoder.dense(wrong)
    with pytest.raises(ValueError, match="attention must be one of"):
        encoder.dense(pictures(1)[0], "gem")
    for wrong in ({"picture": pictures(1)[0][:, :0]}, {"picture": pictures(1)[0], "size": 0}):
        with pytest.raises(ValueError, match="at least a pixel"):
            encoder.dense(**wrong)


def test_square_pictures_only():
    oblong = SIZES["vision_cfg"] | {"image_size": (32, 64)}
    with pytest.raises(ValueError, match="square pictures, got one for 32 x 64"):
        ClipEncoder(small_clip(vision_cfg=oblong), SamTokenizer(1000, 10), MEAN, STD)


# --- maps --------------------------------------------------------------------------------------------------------


def test_map_covers_the_whole_picture_in_its_aspect(encoder):
    picture = torch.randint(0, 256, (3, 90, 181), dtype=torch.uint8)
    features = encoder.dense(picture, size=64)
    assert features.shape == (12, 6, 11) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=0), torch.ones(6, 11))
    assert encoder.dense(picture).shape[1] * encoder.dense(picture).shape[2] == pytest.approx(48**2, rel=0.05)


def test_map_at_the_native_size_is_the_towers_tokens(encoder):
    picture = pictures(1)[0]
    normalised = (picture.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    visual = encoder.clip.visual
    with torch.no_grad():
        tokens = visual.forward_intermediates(normalised[None], indices=[1], normalize_intermediates=True)
        expected = torch.einsum("chw,cd->dhw", tokens["image_intermediates"][0][0], visual.proj)
    torch.testing.assert_close(encoder.dense(picture, "plain", size=32), F.normalize(expected, dim=0))


def test_maps_are_kept_by_picture_attention_and_size(encoder, calls):
    picture = pictures(1)[0]
    first = encoder.dense(picture, size=32)
    assert torch.equal(encoder.dense(picture.clone(), size=32), first) and len(calls["conv1"]) == 1
    for question in ({"attention": "value"}, {"size": 64}, {"key": "mine"}, {"picture": pictures(1, seed=2)[0]}):
        encoder.dense(**({"picture": picture, "size": 32} | question))
    assert len(calls["conv1"]) == 5
    encoder.dense(picture, size=32, key="mine")
    assert len(calls["conv1"]) == 5
    with pytest.raises(RuntimeError):
        first.zero_()


def test_kept_maps_are_bounded_in_bytes(encoder, calls):
    encoder._maps.max_bytes = 2 * 12 * 16 * 4  # two maps
    for _ in range(2):
        for key in "abc":
            encoder.dense(pictures(1)[0], size=32, key=key)
    assert len(calls["conv1"]) == 6 and encoder._maps.statistics().nbytes <= encoder._maps.max_bytes


def test_what_was_seen_in_masks_is_of_these_weights(encoder, calls):
    picture, mask = pictures(1)[0], torch.zeros(32, 32, dtype=torch.bool)
    mask[8:24, 4:20] = True
    ask = functools.partial(mask_vectors, encoder, picture, [mask.numpy()], ["crop", "dimmed"])
    first = ask(key="mine")
    assert torch.equal(ask(key="mine"), first) and calls["encode_image"] == [2]
    torch.testing.assert_close(ask(), first)
    assert encoder.masks_seen.statistics().nbytes <= encoder.masks_seen.max_bytes
    with torch.no_grad():
        encoder.clip.visual.conv1.weight.add_(0.1 * torch.randn_like(encoder.clip.visual.conv1.weight))
    assert not torch.allclose(ask(key="mine"), first) and calls["encode_image"] == [2, 2, 2]


def test_many_threads_get_the_same_answers(encoder):
    phrases, some = [f"a {letter}" for letter in "abcdef"], pictures(4)
    expected = [small_answers(ClipEncoder(encoder.clip, SamTokenizer(1000, 10), MEAN, STD), phrases, some)]
    found, start = [], threading.Barrier(4)

    def ask():
        start.wait()
        found.append(small_answers(encoder, phrases, some))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for answers in found:
        for got, wanted in zip(answers, expected[0], strict=True):
            torch.testing.assert_close(got, wanted)


def small_answers(encoder, phrases, some):
    return encoder.texts(phrases, ("{}", "a {}.")), encoder.pictures(some), encoder.dense(some[0], size=32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gives_float32_near_the_same(encoder, dtype):
    low = ClipEncoder(small_clip().to(dtype), SamTokenizer(1000, 10), MEAN, STD)
    assert low.dtype == dtype
    for got, wanted in zip(
        small_answers(low, ["mug", "dog"], pictures(2)),
        small_answers(encoder, ["mug", "dog"], pictures(2)),
        strict=True,
    ):
        assert got.dtype == torch.float32
        axis = 0 if got.ndim == 3 else -1
        assert (got * wanted).sum(axis).min() > 0.99


@pytest.mark.gpu
def test_gpu_gives_the_same_on_the_cpu(encoder):
    on_gpu = ClipEncoder(small_clip().cuda(), SamTokenizer(1000, 10), MEAN, STD)
    for got, wanted in zip(
        small_answers(on_gpu, ["mug"], pictures(2)), small_answers(encoder, ["mug"], pictures(2)), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
