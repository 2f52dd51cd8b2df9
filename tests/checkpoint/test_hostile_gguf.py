"""Whatever lies where a GGUF file should be: one line that names it, before memory is taken."""

import os
import random
import re
import resource
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.gguf.files import Array, write_file

from lengthwise_checkpoint.architectures import read_limits
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.generation import read_generation_defaults
from lengthwise_checkpoint.gguf import model
from lengthwise_checkpoint.gguf.header import GgufHeader, read_header
from lengthwise_checkpoint.tokenizer import read_text_files

TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(61))]
SOUND: Mapping[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 61],
    "tokenizer.ggml.scores": [0.0] * 64,
    "tokenizer.ggml.eos_token_id": 2,
}
EMBEDDING = np.zeros((64, 32), dtype=np.float32)


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[..., Path]:
    def write(
        changes: Mapping[str, Any] | None = None, tensors: Mapping[str, Array] | None = None
    ) -> Path:
        path = tmp_path / "model.gguf"
        given = {"token_embd.weight": EMBEDDING, **(tensors or {})}
        listed = [(name, data, "F32") for name, data in given.items()]
        write_file(path, {**SOUND, **(changes or {})}, listed)
        return path

    return write


def read_all(path: Path) -> tuple[int, tuple[int, ...]]:
    """What routers and workers read before there are weights; of it the vocabulary's size and the
    tokens that end an answer."""
    config = read_config(path)
    limits = read_limits(config)
    generation = read_generation_defaults(path, config)
    read_text_files(path)
    return limits.vocab_size, tuple(generation.eos_token_ids)


def told(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_sound_file_is_read(file_of: Callable[..., Path]) -> None:
    assert read_all(file_of()) == (64, (2,))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"general.architecture": "gemma2"},
            "'gemma2' is not supported as GGUF; supported are",
        ),
        ({"llama.expert_count": 8}, "llama.expert_count: got 8, supported is 0"),
        ({"llama.attention.sliding_window": 4096}, "got 4096, supported is 0"),
        ({"llama.attention.causal": False}, "got False, supported is True"),
        ({"llama.block_count": None}, "llama.block_count: missing"),
        (
            {"llama.block_count": 4_000_000_000},
            "block_count: expected an integer <=",
        ),
        ({"llama.block_count": 100_000}, "expected an integer <= 4096"),
        ({"llama.block_count": "one"}, "llama.block_count: expected an integer >= 1, got 'one'"),
        ({"llama.attention.head_count": 0}, "expected an integer >= 1, got 0"),
        (
            {"llama.attention.head_count": 64},
            "64 heads of equal size do not make embedding_length 32",
        ),
        ({"llama.attention.head_count_kv": [2, 0]}, r"expected an integer >= 1, got array"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "a finite number"),
        ({"llama.embedding_length": 64}, r"token_embd.weight: got shape \(64, 32\), expected rows"),
        ({"llama.attention.value_length": 4}, "value_length: got 4, supported is the head size 8"),
        ({"llama.rope.dimension_count": 4}, "got 4, supported is the head size 8"),
        ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.factor: missing"),
        (
            {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0},
            "'longrope' is not supported",
        ),
        ({"tokenizer.ggml.model": "bert"}, "'bert'; supported are gpt2, llama"),
        ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.pre: got nothing, as files made before"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "new"}, "got 'new'; supported are"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens: "),
        ({"tokenizer.ggml.tokens": ["a"]}, "1 tokens.* 64 rows"),
        ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "x" * 5000]}, "a token of 5000 characters"),
        ({"tokenizer.ggml.scores": [1.0]}, "scores: expected a number for each of 64 tokens"),
        ({"tokenizer.ggml.token_type": "all"}, "token_type: expected a number for each of 64"),
        ({"tokenizer.ggml.eos_token_id": 64}, "eos_token_id: got 64, expected one of 64 tokens"),
        ({"tokenizer.ggml.merges": ["a b"]}, "not a tokenizer: "),
        ({"tokenizer.ggml.merges": ["ab"]}, "merges: got 'ab', expected two tokens"),
        ({"tokenizer.chat_template": ["a"]}, "chat_template: expected a string"),
        (
            {"split.count": 3},
            "a part of a model in 3 files; name the first, which ends",
        ),
        ({"general.alignment": 0}, "alignment: expected an integer >= 1"),
    ],
    ids=str,
)
def test_metadata_that_cannot_be_served_is_named(
    changes: Mapping[str, Any], expected: str, file_of: Callable[..., Path]
) -> None:
    message = told(file_of(changes))
    assert message.startswith(str(file_of(changes)))
    assert re.search(expected, message), message


def test_factors_of_frequencies_have_the_size_of_heads(file_of: Callable[..., Path]) -> None:
    path = file_of(tensors={"rope_freqs.weight": np.ones(3, np.float32)})
    assert r"got F32 of shape (3,), expected F32 of (4,)" in told(path)
    path = file_of(tensors={"rope_freqs.weight": np.zeros(4, np.float32)})
    assert "factors.0: expected a finite number" in told(path)


def test_a_file_that_ends_anywhere_is_not_whole(file_of: Callable[..., Path]) -> None:
    whole = file_of().read_bytes()
    path = file_of().with_name("cut.gguf")
    for size in (0, 3, 4, 7, 11, 23, 24, 31, 60, 200, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert str(path) in told(path)


@pytest.mark.parametrize(
    ("at", "kind", "value", "expected"),
    [
        (0, "<I", 0, "not a GGUF file"),
        (4, "<I", 1, "GGUF version 1; supported are versions 2 and 3"),
        (4, ">I", 3, "big-endian numbers"),
        (8, "<Q", 2**63, "announced|ends in its header|was made shorter|not UTF-8|dimensions"),
        (16, "<Q", 2**63, ""),
        (24, "<Q", 2**62, "ends in its header"),
    ],
)
def test_absurd_numbers_in_the_header_are_refused(
    at: int, kind: str, value: int, expected: str, file_of: Callable[..., Path]
) -> None:
    path = file_of()
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, at, value)
    path.write_bytes(data)
    assert re.search(expected, told(path))


def test_tensors_of_unknown_types_or_beyond_the_file_are_refused(
    file_of: Callable[..., Path],
) -> None:
    path = file_of()
    data = path.read_bytes()
    at = data.index(b"token_embd.weight") + len(b"token_embd.weight")

    def changed(offset: int, kind: str, value: int) -> str:
        other = bytearray(data)
        struct.pack_into(kind, other, at + offset, value)
        path.write_bytes(other)
        return told(path)

    assert "got 0 dimensions" in changed(0, "<I", 0)
    assert "got 5 dimensions" in changed(0, "<I", 5)
    assert "got dimensions [0, 64]" in changed(4, "<Q", 0)
    assert "not whole: tensor token_embd.weight takes" in changed(4, "<Q", 2**31 - 1)
    assert "has type 4; supported are F32" in changed(20, "<I", 4)
    assert "has type 40; supported are F32" in changed(20, "<I", 40)
    assert "rows of 32 weights, expected whole blocks of 256" in changed(20, "<I", 12)
    assert "not whole: tensor token_embd.weight takes" in changed(24, "<Q", 2**60)


def test_tensors_that_lie_over_one_another_are_refused(file_of: Callable[..., Path]) -> None:
    path = file_of(tensors={"output_norm.weight": np.ones(32, np.float32)})
    data = bytearray(path.read_bytes())
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight")
    offset = at + 4 + 8 + 4  # after the number of dimensions, one of them, and the type
    assert struct.unpack_from("<Q", data, offset) == (EMBEDDING.nbytes,)
    for place in (0, 32, EMBEDDING.nbytes - 32):
        struct.pack_into("<Q", data, offset, place)
        path.write_bytes(data)
        assert re.search(r"tensors \S+ and \S+ lie over one another, from byte", told(path))


def test_the_header_is_read_once_until_the_file_is_another(
    file_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> GgufHeader:
        read.append(path)
        return read_header(path)

    monkeypatch.setattr(model, "read_header", counted)
    assert read_all(file_of()) == (64, (2,))
    assert len(read) == 1
    assert read_all(file_of({"tokenizer.ggml.eos_token_id": 1, "general.name": "X"})) == (64, (1,))
    assert len(read) == 2


@pytest.mark.slow
def test_no_damage_of_a_byte_is_more_than_one_line(file_of: Callable[..., Path]) -> None:
    path, draw = file_of(), random.Random(6)
    data = path.read_bytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        other = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            other[draw.randrange(4, len(data) - EMBEDDING.nbytes)] = draw.randrange(256)
        path.write_bytes(other)
        with suppress(CheckpointError):  # whose text is one line whatever it says
            read_all(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200 << 10  # KiB


def test_parts_have_to_be_there_and_of_one_model(file_of: Callable[..., Path]) -> None:
    folder = file_of().parent
    first, second = (folder / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    parts = {"split.count": 2, "split.tensors.count": 1}
    os.rename(file_of({**parts, "split.no": 0}), first)
    assert f"{second}: cannot be read: No such file" in told(first)
    os.rename(file_of({**parts, "split.no": 0}), second)
    assert f"{second}: says it is part 1, expected 2" in told(first)
    os.rename(file_of({**parts, "split.no": 1}), second)
    assert "its parts have 2 tensors, 1 of them different, expected 1" in told(first)
    assert "name the first, which ends with -00001-of-00002.gguf" in told(second)


def test_a_gguf_of_another_architecture_is_unsupported_and_not_damaged(
    file_of: Callable[..., Path],
) -> None:
    with pytest.raises(UnsupportedModel):
        read_config(file_of({"general.architecture": "mamba"}))
