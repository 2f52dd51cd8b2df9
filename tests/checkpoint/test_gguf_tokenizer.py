"""Tokenizers of GGUF files against those that transformers makes of the same vocabularies."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness.gguf.files import write_file
from harness.reference import DEMO_MODEL
from tokenizers import Tokenizer

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.generation import read_generation_defaults
from lengthwise_checkpoint.gguf.word_splits import WORD_SPLITS
from lengthwise_checkpoint.tokenizer import TextFiles, read_text_files

PIECES = (
    *(
        "hello",
        "World",
        "HTML",
        "don't",
        "WE'LL",
        "'s",
        "iPhone",
        "a_b",
        "x+=1",
        "http://a.b/c?d=1",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "1",
        "2024",
        "½",
        "Ⅷ",
        "é",
        "e\u0301",
        "ﬁ",
        "ß",
        "ǅ",
    ),
    *(
        "日本",
        "مرحبا",
        "हिन्दी",
        "🐍",
        "👩\u200d👧",
        "\x00",
        "\ufeff",
        "<|im_start|>",
        "<think>",
        "▁",
    ),
)
SPECIAL = {"<|im_start|>": 3, "<|im_end|>": 3, "<think>": 4}


def texts(count: int = 300) -> list[str]:
    draw = random.Random(4)
    drawn = ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(count)]
    return ["", *PIECES, *drawn]


def byte_level(pre: str, **changes: Any) -> dict[str, Any]:
    """The demo model's vocabulary, with special tokens."""
    stored = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    vocabulary = stored["model"]["vocab"]
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), *SPECIAL]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [SPECIAL.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in stored["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": tokens.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
        **changes,
    }


def sentencepiece(**changes: Any) -> dict[str, Any]:
    """Tokens with scores, bytes for the rest: words of some letters, the longer the less likely."""
    draw = random.Random(5)
    letters = ["▁", *"abcdefghilmnoprstuw", "é", "日"]
    words = {
        "▁" * draw.randint(0, 1) + "".join(draw.choices(letters[1:9], k=draw.randint(2, 5)))
        for _ in range(300)
    }
    parts = {word[:end] for word in words for end in range(1, len(word) + 1)}
    greeting = {"▁hello", "▁he", "he", "ll", "llo", "▁▁"}
    normal = sorted({*letters, *parts, *greeting}, key=lambda text: (len(text), text))
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *normal, *SPECIAL]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(normal), *SPECIAL.values()]
    scores = [0.0] * 259 + [-float(place) for place in range(len(normal))] + [0.0] * len(SPECIAL)
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **changes,
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Mapping[str, Any]], TextFiles]:
    def write_and_read(metadata: Mapping[str, Any]) -> TextFiles:
        path = tmp_path / "model.gguf"
        write_file(path, metadata, [])
        return read_text_files(path)

    return write_and_read


def of_transformers(metadata: Mapping[str, Any]) -> Tokenizer:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )

    names = GGUF_TOKENIZER_MAPPING["tokenizer"]
    given = {
        name: metadata[f"tokenizer.{key}"]
        for key, name in names.items()
        if f"tokenizer.{key}" in metadata
    }
    tokenizer, _ = convert_gguf_tokenizer(metadata["general.architecture"], given)
    return tokenizer


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "smaug-bpe", "deepseek-r1-qwen", "tekken"])
def test_byte_level_tokens_and_texts_are_those_of_transformers(
    pre: str, read: Callable[[Mapping[str, Any]], TextFiles]
) -> None:
    metadata = byte_level(pre)
    ours, theirs = read(metadata).tokenizer, of_transformers(metadata)
    for text in texts():
        ids = ours.encode(text).ids
        assert ids == theirs.encode(text, add_special_tokens=False).ids, text
        assert ours.decode(ids, skip_special_tokens=False) == text


def test_qwen_2_composes_marks_as_its_own_tokenizer_does(
    read: Callable[[Mapping[str, Any]], TextFiles],
) -> None:
    from transformers import Qwen2Tokenizer

    metadata = byte_level("qwen2")
    vocabulary = {token: place for place, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    make: Callable[..., Any] = Qwen2Tokenizer
    theirs = make(vocab=vocabulary, merges=merges, additional_special_tokens=["<|im_start|>"])
    theirs.add_tokens(["<think>"])
    ours = read(metadata).tokenizer
    for text in texts():
        assert ours.encode(text).ids == theirs(text).input_ids, text


def test_smollm_takes_digits_one_by_one_as_its_own_tokenizer_does(
    read: Callable[[Mapping[str, Any]], TextFiles],
) -> None:
    from tokenizers import pre_tokenizers

    metadata = byte_level("smollm")
    ours, theirs = read(metadata).tokenizer, of_transformers(metadata)
    digits = pre_tokenizers.Digits(individual_digits=True)
    theirs.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])
    for text in texts():
        assert ours.encode(text).ids == theirs.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("pre", WORD_SPLITS)
def test_every_way_to_split_loses_nothing(
    pre: str, read: Callable[[Mapping[str, Any]], TextFiles]
) -> None:
    tokenizer = read(byte_level(pre)).tokenizer
    for text in texts(30):
        decoded = tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False)
        composed = tokenizer.normalizer and tokenizer.normalizer.normalize_str(text)
        assert decoded in (text, composed)


def test_sentencepiece_tokens_are_those_of_transformers(
    read: Callable[[Mapping[str, Any]], TextFiles],
) -> None:
    metadata = sentencepiece()
    ours, theirs = read(metadata).tokenizer, of_transformers(metadata)
    for text in texts():
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, add_special_tokens=False).ids, text
        assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize(
    ("metadata", "before", "after"),
    [
        (sentencepiece(), ["<s>"], []),
        (sentencepiece(**{"tokenizer.ggml.add_bos_token": False}), [], []),
        (sentencepiece(**{"tokenizer.ggml.add_eos_token": True}), ["<s>"], ["</s>"]),
        (byte_level("qwen2"), [], []),
        (byte_level("gpt-2", **{"tokenizer.ggml.add_bos_token": True}), ["<|im_start|>"], []),
        (byte_level("llama-bpe", **{"tokenizer.ggml.add_bos_token": None}), ["<|im_start|>"], []),
        (byte_level("gpt-2", **{"tokenizer.ggml.add_bos_token": None}), [], []),
    ],
)
def test_texts_begin_and_end_as_the_file_says(
    metadata: Mapping[str, Any],
    before: list[str],
    after: list[str],
    read: Callable[[Mapping[str, Any]], TextFiles],
) -> None:
    tokenizer = read(metadata).tokenizer
    plain = tokenizer.encode("hello", add_special_tokens=False).tokens
    assert tokenizer.encode("hello").tokens == [*before, *plain, *after]


def test_the_chat_template_and_the_names_of_special_tokens_are_read(
    read: Callable[[Mapping[str, Any]], TextFiles],
) -> None:
    found = read(byte_level("qwen2", **{"tokenizer.chat_template": "{{ bos_token }}"}))
    assert found.chat_template == "{{ bos_token }}"
    assert found.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert found.tokens_are_bytes
    assert read(sentencepiece()).chat_template is None


def test_an_answer_ends_at_every_token_that_ends_turns(tmp_path: Path) -> None:
    tokens = ["a", "<|endoftext|>", "<|im_end|>", "<end_of_turn>", "<|eot_id|>"]
    path = tmp_path / "model.gguf"
    metadata = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1, 3, 3, 1, 3],
        "tokenizer.ggml.eos_token_id": 2,
        "general.sampling.temp": 0.5,
        "general.sampling.top_k": 7,
    }
    write_file(path, metadata, [])
    found = read_generation_defaults(path, ConfigJson(path, {}))
    assert found.eos_token_ids == (2, 1, 4)
    assert (found.sampling.temperature, found.sampling.top_k) == (0.5, 7)
