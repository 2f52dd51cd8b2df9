"""Tokenizers as transformers' AutoTokenizer reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.tokenizer import TextFiles, read_text_files

FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
TEXTS = ("hi", "<|begin|>hi<|end|>", " <new> <|tool|>x", "é\n")


def added(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": content, **plain, "special": True, **flags}


def write(folder: Path, **files: Any) -> None:
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def encode(text_files: TextFiles, text: str) -> list[int]:
    (encoding,) = text_files.tokenizer.encode_batch_fast([text])
    ids: list[int] = encoding.ids
    return ids


VARIANTS: dict[str, dict[str, Any]] = {
    "nothing said": {"tokenizer_config": FAST},
    "named in tokenizer_config.json": {
        "tokenizer_config": FAST
        | {
            "bos_token": "<|begin|>",
            "eos_token": {"__type": "AddedToken", **added("<|end|>")},
        }
    },
    "named in special_tokens_map.json": {
        "tokenizer_config": FAST,
        "special_tokens_map": {"bos_token": added("<|begin|>"), "eos_token": "<|end|>"},
    },
    "named in both": {
        "tokenizer_config": FAST | {"eos_token": "<|user|>"},
        "special_tokens_map": {"eos_token": "<|end|>"},
    },
    "named in both, the older one replaced": {
        "tokenizer_config": FAST
        | {"eos_token": "<|user|>", "added_tokens_decoder": {"257": added("<|end|>")}},
        "special_tokens_map": {"eos_token": "<|end|>", "bos_token": "<|begin|>"},
    },
    "added by tokenizer_config.json alone": {
        "tokenizer_config": FAST
        | {
            "eos_token": "<|tool|>",
            "added_tokens_decoder": {
                "256": added("<|begin|>"),
                "1000": added("<|tool|>"),
                "261": added("<new>", special=False),
            },
        }
    },
    "added by added_tokens.json": {
        "tokenizer_config": FAST | {"eos_token": "<|tool|>"},
        "added_tokens": {"<|tool|>": 261, "<new>": 260},
    },
    "special and nowhere added": {"tokenizer_config": FAST | {"eos_token": "<|tool|>"}},
    "asking for ends that tokenizer.json does not put": {
        "tokenizer_config": FAST
        | {
            "bos_token": "<|begin|>",
            "eos_token": "<|end|>",
            "add_bos_token": True,
            "add_eos_token": True,
        }
    },
}


@pytest.mark.parametrize("files", VARIANTS.values(), ids=VARIANTS)
def test_tokens_are_those_of_transformers(toy_folder: Path, files: dict[str, Any]) -> None:
    write(toy_folder, **files)
    theirs = AutoTokenizer.from_pretrained(toy_folder)
    ours = read_text_files(toy_folder)
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.eos_token_id == theirs.eos_token_id
    for text in TEXTS:
        assert encode(ours, text) == theirs(text).input_ids, text


def test_truncation_and_padding_of_the_training_are_forgotten(toy_folder: Path) -> None:
    edit(
        toy_folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 99},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
    )
    assert encode(read_text_files(toy_folder), "longer than four") == [*b"longer than four"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param("a", "a", id="one"),
        pytest.param(
            [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
            "d",
            id="the default of several",
        ),
        pytest.param([{"name": "tool_use", "template": "t"}], None, id="no default"),
        pytest.param(None, None, id="none"),
    ],
)
def test_the_chat_template_comes_from_the_tokenizer_config(
    toy_folder: Path, template: Any, expected: str | None
) -> None:
    write(toy_folder, tokenizer_config=FAST | {"chat_template": template})
    assert read_text_files(toy_folder).chat_template == expected


def test_a_template_file_comes_before_the_tokenizer_config(toy_folder: Path) -> None:
    write(toy_folder, tokenizer_config=FAST | {"chat_template": "old"})
    (toy_folder / "chat_template.jinja").write_text("new")
    theirs = AutoTokenizer.from_pretrained(toy_folder)
    assert read_text_files(toy_folder).chat_template == theirs.chat_template == "new"


DAMAGES: dict[str, tuple[str, bytes | None, str]] = {
    "no tokenizer": ("tokenizer.json", None, "not found"),
    "broken tokenizer": ("tokenizer.json", b"{}", "not a tokenizer"),
    "tokenizer not UTF-8": ("tokenizer.json", b"\xff", "not UTF-8"),
    "template not UTF-8": ("chat_template.jinja", b"\xff", "not UTF-8"),
    "template of a wrong kind": (
        "tokenizer_config.json",
        b'{"chat_template": 3}',
        "chat_template: expected a string, got int",
    ),
    "token of a wrong kind": (
        "tokenizer_config.json",
        b'{"eos_token": 3}',
        "eos_token: expected a string, got 3",
    ),
    "token without content": (
        "tokenizer_config.json",
        b'{"eos_token": {}}',
        "eos_token.content: missing",
    ),
    "added token of a wrong kind": (
        "tokenizer_config.json",
        b'{"added_tokens_decoder": {"1": []}}',
        r"added_tokens_decoder.1: expected an object, got \[\]",
    ),
    "deeply nested": ("special_tokens_map.json", b"[" * 100_000, "not valid JSON"),
}


@pytest.mark.parametrize(("file", "content", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_cannot_be_used_is_named(
    toy_folder: Path, file: str, content: bytes | None, message: str
) -> None:
    path = toy_folder / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path}: {message}"):
        read_text_files(toy_folder)
