"""The folder is a checkpoint like any other: small, complete, its files in agreement."""

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

BEGIN, END = "<|begin|>", "<|end|>"


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _render(folder: Path, *messages: tuple[str, str]) -> str:
    template = _json(folder / "tokenizer_config.json")["chat_template"]
    return (
        ImmutableSandboxedEnvironment()
        .from_string(template)
        .render(
            messages=[{"role": role, "content": content} for role, content in messages],
            bos_token=BEGIN,
            add_generation_prompt=True,
        )
    )


def test_folder_is_small_enough_for_a_repository(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12_000_000


def test_config_tokenizer_and_weights_agree_on_the_vocabulary(
    folder: Path, tokenizer: Tokenizer, model: "LlamaForCausalLM"
) -> None:
    config = _json(folder / "config.json")
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    embedding = model.model.embed_tokens.weight
    assert list(embedding.shape) == [config["vocab_size"], config["hidden_size"]]


def test_every_file_names_the_same_special_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer_config = _json(folder / "tokenizer_config.json")
    assert (tokenizer_config["bos_token"], tokenizer_config["eos_token"]) == (BEGIN, END)
    ids = [tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)]
    for name in ("config.json", "generation_config.json"):
        content = _json(folder / name)
        assert [content["bos_token_id"], content["eos_token_id"]] == ids


def test_a_prompt_begins_with_the_begin_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("def").tokens == [BEGIN, "def"]


@given(text=st.text())
def test_decoding_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\tnaïve = '日本語 🐍👩‍💻'\r\n", id="beyond ascii"),
        pytest.param("if x:\n        y   =  1 \n\n\n\n   # z\n", id="odd spaces"),
        pytest.param(f"a {END} b{BEGIN}", id="special tokens spelled out"),
    ],
)
def test_decoding_gives_back_awkward_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_indentation_is_one_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("class A:\n    def f(self):\n        return self\n").ids
    words = [tokenizer.decode([token]) for token in ids]
    assert words.count("    ") == 1
    assert words.count("        ") == 1


def test_transformers_loads_the_same_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    text = "def f(x):\n    return '🐍'\n"
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("Write a stack.", id="plain"),
        pytest.param('Say """hi""" and "', id="quotes"),
        pytest.param("C:\\new\\x and a \\", id="backslashes"),
        pytest.param("two\n\nlines {{ 1 }} 🐍", id="lines and braces"),
    ],
)
def test_a_conversation_becomes_a_module(folder: Path, content: str) -> None:
    prompt = _render(
        folder,
        ("system", "Only Python.\nNo prose."),
        ("user", content),
        ("assistant", "x = 1"),
        ("user", "And now?"),
    )
    assert prompt.startswith(f"{BEGIN}# Only Python.\n# No prose.\n")
    docstring, assignment, question = ast.parse(prompt.removeprefix(BEGIN)).body
    assert ast.literal_eval(ast.unparse(docstring)) == content + "\n"
    assert ast.unparse(assignment) == "x = 1"
    assert ast.literal_eval(ast.unparse(question)) == "And now?\n"
