"""Whatever lies where a text file of a checkpoint should be: one line at the start that names it,
and never a traceback, a wait or the memory of a machine."""

import os
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import pytest

from lengthwise_checkpoint.architectures import read_limits
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.generation import read_generation_defaults
from lengthwise_checkpoint.tokenizer import read_text_files

JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
TEMPLATES = ("chat_template.jinja", "additional_chat_templates/default.jinja")


def _huge(path: Path) -> None:
    """Takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(10 << 30)


def _loop(path: Path) -> None:
    other = path.with_suffix(".other")
    other.symlink_to(path)
    path.symlink_to(other)


PLACES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "not a regular file"),
    "a folder": (Path.mkdir, "not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a link to itself": (_loop, "cannot be read: Too many levels of symbolic links"),
    "a link that leads nowhere": (lambda path: path.symlink_to("nowhere"), "not found"),
    "10 GiB": (_huge, "got 10737418240 bytes, expected at most"),
    "UTF-16": (lambda path: path.write_text("{}", encoding="utf-16"), "not UTF-8"),
    "latin-1": (lambda path: path.write_bytes(b'{"\xe9": 1}'), "not UTF-8"),
    "a byte order mark": (
        lambda path: path.write_text("{}", encoding="utf-8-sig"),
        "begins with a byte order mark",
    ),
}
CONTENTS: Mapping[str, str] = {
    "nothing": "",
    "nested lists": '{"a": ' + "[" * 100_000,
    "nested objects": '{"a":' * 100_000,
    "a list": "[]",
    "half a character": r'{"eos_token": "\ud83d"}',
    "NaN alone": "NaN",
    "a digit too many": '{"a": ' + "9" * 5_000 + "}",
}


def read_all(folder: Path) -> None:
    """As a router does at its start."""
    config = read_config(folder)
    read_limits(config)
    read_generation_defaults(folder, config)
    read_text_files(folder)


def check_told(folder: Path, file: str, told: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_all(folder)
    line = str(caught.value)
    assert line.startswith(f"{folder / file}: {told}")
    assert "\n" not in line
    assert len(line) < len(str(folder)) + 450


@pytest.mark.parametrize(("file", "place"), [*product((*JSON_FILES, *TEMPLATES), PLACES)])
def test_what_is_no_text_file_is_named(toy_folder: Path, file: str, place: str) -> None:
    path = toy_folder / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    spoil, told = PLACES[place]
    spoil(path)
    check_told(toy_folder, file, told)


@pytest.mark.parametrize(("file", "content"), [*product(JSON_FILES, CONTENTS)])
def test_what_is_no_json_object_is_named(toy_folder: Path, file: str, content: str) -> None:
    (toy_folder / file).write_text(CONTENTS[content])
    check_told(toy_folder, file, "")


TOKENIZERS: Mapping[str, str] = {
    "an unknown model": '{"model": {"type": "Magic"}}',
    "a merge of nothing": '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
    "ids beyond 32 bits": '{"model": {"type": "BPE", "vocab": {"a": 1e18}, "merges": []}}',
    "a field twice": '{"version": "1.0", "version": "1.0"}',
    "a bad expression": '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer":'
    ' {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}}',
    "a long name": '{"model": {"type": "' + "x" * 5_000 + '"}}',
}


@pytest.mark.parametrize("content", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_the_library_refuses_is_one_line(toy_folder: Path, content: str) -> None:
    (toy_folder / "tokenizer.json").write_text(content)
    check_told(toy_folder, "tokenizer.json", "not a tokenizer: ")


def test_keys_that_come_twice_are_read_as_transformers_reads_them(toy_folder: Path) -> None:
    twice = '{"eos_token": "<|user|>", "eos_token": "<|end|>"}'
    (toy_folder / "tokenizer_config.json").write_text(twice)
    assert read_text_files(toy_folder).special_tokens == {"eos_token": "<|end|>"}
