"""Small tokenizers of every kind, and what files beside tokenizer.json say of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

WORDS = ("the", "cat", "don", "'t", "12", "naïve", "日本", "🙂")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}"
    "{% endfor %}{{ image_token }}{{ pad_token }}"
)


def byte_level(*, prefix: bool = False, regex: bool = True) -> Tokenizer:
    """As GPT-2 and Llama 3."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = [plain.pre_tokenize_str(text)[0][0] for word in WORDS for text in (word, f" {word}")]
    tokenizer = Tokenizer(_bpe(sorted(pre.alphabet()), words))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def prefixed_byte_level() -> Tokenizer:
    return byte_level(prefix=True)


def qwen() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def llama_3() -> Tokenizer:
    return _with_begin(byte_level(), "<|begin|>")


def llama_2() -> Tokenizer:
    """Spaces become ▁ in a normaliser, as in the first conversions."""
    tokenizer = _sentence_pieces()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _with_begin(tokenizer, "<s>")


def metaspace(scheme: str = "first") -> Tokenizer:
    tokenizer = _sentence_pieces()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
    )
    return _with_begin(tokenizer, "<s>")


def metaspace_without_prefix() -> Tokenizer:
    return metaspace("never")


def gemma() -> Tokenizer:
    tokenizer = _sentence_pieces()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _with_begin(tokenizer, "<s>")


def unigram() -> Tokenizer:
    pieces = ["<unk>", "▁", *(f"▁{word}" for word in WORDS), *sorted(set("".join(WORDS)))]
    scores = [(piece, -float(rank)) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def word_pieces() -> Tokenizer:
    letters = sorted(set("".join(WORDS).lower()))
    pieces = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    vocab = {piece: rank for rank, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def words() -> Tokenizer:
    vocab = {word: rank for rank, word in enumerate(("[UNK]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def trained_with_padding() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.enable_padding(pad_id=0, pad_token="<|pad|>", length=16)
    tokenizer.enable_truncation(4)
    return tokenizer


KINDS: Mapping[str, Callable[[], Tokenizer]] = {
    make.__name__: make
    for make in (
        byte_level, prefixed_byte_level, qwen, llama_3, llama_2, metaspace,
        metaspace_without_prefix, gemma, unigram, word_pieces, words, trained_with_padding,
    )
}  # fmt: skip


def token(content: str, **flags: bool) -> dict[str, Any]:
    """As files write a token; special unless said otherwise."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": content, **plain, "special": True, **flags}


def _typed(content: str, **flags: bool) -> dict[str, Any]:
    return {"__type": "AddedToken", **token(content, **flags)}


_ENDS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
Files = Mapping[str, dict[str, Any]]
FILES: Mapping[str, Files] = {
    "nothing": {},
    "names": {"tokenizer_config": {**_ENDS, "chat_template": CHATML}},
    "names with flags": {
        "tokenizer_config": {
            "bos_token": _typed("<|im_start|>", rstrip=True),
            "eos_token": _typed("<|im_end|>", lstrip=True, special=False),
            "chat_template": CHATML,
        }
    },
    "a decoder": {
        "tokenizer_config": {
            **_ENDS,
            "chat_template": NAMED,
            "added_tokens_decoder": {
                "900": token("<|im_start|>", lstrip=True),
                "1000": token("<|im_end|>", special=False),
                "901": token("<tool>", special=False, normalized=True),
            },
        },
        "special_tokens_map": {"bos_token": "<ignored>"},
    },
    "an empty decoder": {
        "tokenizer_config": {**_ENDS, "added_tokens_decoder": {}, "chat_template": CHATML}
    },
    "a map": {
        "tokenizer_config": {"eos_token": "<tool>", "chat_template": NAMED},
        "special_tokens_map": {
            "bos_token": token("<|im_start|>", rstrip=True),
            "eos_token": "<|im_end|>",
            "pad_token": {"content": "<|pad|>"},
            "additional_special_tokens": ["<tool>", "<|im_end|>"],
        },
    },
    "a map of nulls": {
        "tokenizer_config": {**_ENDS, "pad_token": None, "chat_template": NAMED},
        "special_tokens_map": {"eos_token": None},
    },
    "added_tokens.json": {
        "tokenizer_config": {"eos_token": "<|im_end|>", "chat_template": CHATML},
        "added_tokens": {"<|im_end|>": 901, "<tool>": 900, "the cat": 902},
    },
    "extra tokens": {
        "tokenizer_config": {
            "extra_special_tokens": ["<tool>", "<|im_end|>"],
            "chat_template": CHATML,
        }
    },
    "additional tokens": {
        "tokenizer_config": {"additional_special_tokens": ["<tool>", "<|im_start|>"], **_ENDS}
    },
    "tokens of its own": {
        "tokenizer_config": {
            **_ENDS,
            "image_token": "<image>",
            "extra_special_tokens": {"audio_token": "<audio>"},
            "chat_template": NAMED,
        }
    },
    "ends asked for": {"tokenizer_config": {**_ENDS, "add_bos_token": True, "add_eos_token": True}},
    "special tokens split": {"tokenizer_config": {**_ENDS, "split_special_tokens": True}},
}


def write_folder(
    folder: Path,
    tokenizer: Tokenizer,
    files: Files,
    *,
    tokenizer_class: str | None = None,
    **config: Any,
) -> Path:
    """A checkpoint folder without weights; `config` is what its config.json says."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    named = {} if tokenizer_class is None else {"tokenizer_class": tokenizer_class}
    if "tokenizer_config" in files or named:
        files = {**files, "tokenizer_config": {**named, **files.get("tokenizer_config", {})}}
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def _bpe(alphabet: list[str], words: list[str], **options: Any) -> models.BPE:
    """A token for each beginning of each word."""
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    begun = [word[:end] for word in words for end in range(2, len(word) + 1)]
    letters = [letter for word in words for letter in word]
    pieces = dict.fromkeys((*alphabet, *letters, *begun))
    vocab = {piece: rank for rank, piece in enumerate(pieces)}
    return models.BPE(vocab, [*dict.fromkeys(merges)], **options)


def _sentence_pieces() -> Tokenizer:
    alphabet = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words = [f"▁{word}" for word in WORDS[:6]]
    options = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    tokenizer = Tokenizer(_bpe(alphabet, words, **options))
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in alphabet[:3]]
    )
    return tokenizer


def _with_begin(tokenizer: Tokenizer, begin: str) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(begin, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer
