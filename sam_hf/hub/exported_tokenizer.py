"""CLIP's tokenizer as `tokenizer.json`, which Hugging Face's `tokenizers`, transformers and transformers.js read.

A page that runs text_encoder.onnx takes it from there: text -> start, tokens, end, zeros up to the context length. Its
vocabulary, merges and numbers are those of `SamTokenizer`, which are open_clip's. What open_clip does to text before
is written once more as rules of that file: lower case, composed accents, straight quotes, ligatures and wide letters
taken apart. Three things have no such rule: broken encodings ("cafÃ©") and HTML's entities ("&amp;"), which open_clip
repairs, and a capital sigma that ends a word.

Source: open_clip's SimpleTokenizer, transformers' converter of CLIP's tokenizer. Differs in: a vocabulary cut to its
first merges, padding by 0, and control words typed by a user are words like any others.
"""

import json
import os
import unicodedata
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from sam_hf.model.text_encoder import SamTokenizer

__all__ = ["FILES", "json_tokenizer", "write_tokenizer"]

FILES = ("tokenizer.json", "tokenizer_config.json")
START, END, FILL = "<start_of_text>", "<end_of_text>", "!"  # the last is the vocabulary's number 0
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# Ligatures, and the block of wide and narrow forms: what they are compatible with is what is meant.
TAKEN_APART = (*range(0x132, 0x134), 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4))
TAKEN_APART += (*range(0xFB00, 0xFB05), 0xFB06, *range(0xFF01, 0xFFEF))


def json_tokenizer(tokenizer: SamTokenizer) -> Tokenizer:
    """The same tokenizer for `tokenizers`: a phrase -> token ids, cut or filled up to the context length.

    Example:
        >>> json_tokenizer(SamTokenizer()).encode("a red mug").ids[:5]
        [49406, 320, 736, 11004, 49407]
    """
    vocabulary = {word: number for number, word in enumerate([*tokenizer.vocabulary, START, END])}
    words = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
    made = Tokenizer(models.BPE(vocabulary, tokenizer.merges, **words))
    forms = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in TAKEN_APART}
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(
                Regex(r"[\x00-\x1f\x7f-\x9f]"), " "
            ),  # control characters, as `SamProcessor` reads them
            normalizers.Replace(Regex(r"[\u206a-\u206f\ufeff\ufff9-\ufffc]"), ""),
            *(normalizers.Replace(form, plain) for form, plain in forms.items() if form != plain),
            normalizers.Replace(Regex(r"[\u02bc\u2018-\u201b]"), "'"),
            normalizers.Replace(Regex(r"[\u201c-\u201f]"), '"'),
            normalizers.NFC(),
            normalizers.Lowercase(),
            *(normalizers.Replace(word, word.strip("<>")) for word in (START, END)),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ends = [(START, tokenizer.start_id), (END, tokenizer.end_id)]
    made.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    made.enable_truncation(tokenizer.context_length)
    made.enable_padding(length=tokenizer.context_length, pad_id=0, pad_token=FILL)
    return made


def write_tokenizer(tokenizer: SamTokenizer, folder: str | os.PathLike) -> list[Path]:
    """Write `tokenizer.json`, and `tokenizer_config.json`, out of which transformers.js takes the context length."""
    files = [Path(folder) / name for name in FILES]
    json_tokenizer(tokenizer).save(str(files[0]))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.context_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": FILL,
        "clean_up_tokenization_spaces": False,
    }
    files[1].write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return files
