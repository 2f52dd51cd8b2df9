"""Ids of texts and of conversations, special tokens and decoded texts: those of AutoTokenizer, for
every kind of tokenizer and all that files beside it say."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from checkpoint.tokenizer_folders import FILES, KINDS, Files, write_folder
from transformers import AutoTokenizer

from lengthwise_checkpoint.tokenizer import read_text_files

GENERIC = "PreTrainedTokenizerFast"
TEXTS = (
    "the cat",
    " the  cat\n",
    "The naïve日本🙂 don't 12",
    "<|im_start|>the<|im_end|> cat <tool>the",
    "<s>the</s> <image>cat <|pad|> [CLS]<|endoftext|>\n",
    "the catthe cat",
)
CHAT = [
    {"role": "system", "content": "the cat"},
    {"role": "user", "content": " don't<|im_end|>\n<s>"},
]


def check_same_as_transformers(folder: Path) -> None:
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    ours = read_text_files(folder)
    assert ours.special_tokens == theirs.special_tokens_map
    for text in TEXTS:
        (encoding,) = ours.tokenizer.encode_batch_fast([text])
        assert encoding.ids == theirs(text).input_ids, text
        said = theirs.decode(
            encoding.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert ours.tokenizer.decode(encoding.ids, skip_special_tokens=True) == said
    assert ours.chat_template == theirs.chat_template
    if ours.chat_template is None:
        return
    rendered = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    (encoding,) = ours.tokenizer.encode_batch_fast([rendered], add_special_tokens=False)
    ids = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert encoding.ids == ids


@pytest.mark.parametrize(("kind", "files"), [*product(KINDS, FILES)])
def test_a_tokenizer_that_is_taken_as_it_is(kind: str, files: str, tmp_path: Path) -> None:
    write_folder(tmp_path, KINDS[kind](), FILES[files], tokenizer_class=GENERIC)
    check_same_as_transformers(tmp_path)


CLASSES = ("LlamaTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer")
FLAGS: dict[str, Files] = {
    "": {},
    "legacy": {"tokenizer_config": {"legacy": True}},
    "no prefix": {"tokenizer_config": {"add_prefix_space": False}},
    "a prefix": {"tokenizer_config": {"add_prefix_space": True, "legacy": None}},
    "no names": {"tokenizer_config": {"bos_token": None, "eos_token": None, "pad_token": None}},
    "a decoder": FILES["a decoder"],
    "a map": FILES["a map"],
    "ends asked for": FILES["ends asked for"],
}


@pytest.mark.parametrize(
    ("kind", "name", "flags"),
    [*product(("byte_level", "llama_2", "metaspace"), CLASSES, FLAGS)],
)
def test_a_class_that_surrounds_the_vocabulary_itself(
    kind: str, name: str, flags: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, KINDS[kind](), FLAGS[flags], tokenizer_class=name)
    check_same_as_transformers(tmp_path)


@pytest.mark.parametrize("name", [None, GENERIC, "TokenizersBackend", "LlamaTokenizer", "Unheard"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["qwen", "llama_2"])
def test_the_models_family_may_decide_the_class(
    kind: str, model_type: str, name: str | None, tmp_path: Path
) -> None:
    write_folder(tmp_path, KINDS[kind](), {}, tokenizer_class=name, model_type=model_type)
    check_same_as_transformers(tmp_path)
