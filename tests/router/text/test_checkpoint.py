"""The served model as the router puts it together; tests/checkpoint reads the files one by one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_router.text.checkpoint import load_checkpoint
from lengthwise_router.text.tokenization import PromptEncoder
from lengthwise_wire.v1 import inference_pb2


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_toy_checkpoint(tmp_path / "toy", context_length=512)


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**values, **changes}))


def test_the_folder_names_the_model_unless_a_name_is_given(checkpoint: Path) -> None:
    assert load_checkpoint(str(checkpoint)).name == "toy"
    assert load_checkpoint(f"{checkpoint}/").name == "toy"
    assert load_checkpoint(str(checkpoint), "mine").name == "mine"


def test_context_vocabulary_and_ends_come_from_config(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    assert (loaded.context_length, loaded.vocab_size) == (512, 260)
    assert loaded.eos_token_ids == (257,)


async def test_conversations_are_rendered_and_encoded_without_more_special_tokens(
    checkpoint: Path,
) -> None:
    (checkpoint / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"
    )
    edit(checkpoint / "tokenizer_config.json", bos_token={"content": "<|begin|>"})
    encoder = PromptEncoder(load_checkpoint(str(checkpoint)), threads=1, max_waiting=1)
    running = asyncio.create_task(encoder.run())
    messages = [inference_pb2.ChatMessage(role="user", content="hi")]
    prompt = inference_pb2.Prompt(conversation=inference_pb2.Conversation(messages=messages))
    rendered = encoder.encode(prompt)
    assert isinstance(rendered, asyncio.Future)
    assert await rendered == [256, *b"user:hi"]
    running.cancel()
    await encoder.close()


def test_a_token_that_only_the_tokenizer_names_ends_a_text_too(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", eos_token="<|assistant|>")
    assert load_checkpoint(str(checkpoint)).eos_token_ids == (257, 259)


def test_an_end_that_the_model_has_no_row_for_is_none(checkpoint: Path) -> None:
    edit(checkpoint / "generation_config.json", eos_token_id=[257, 100_000])
    edit(checkpoint / "tokenizer_config.json", eos_token="<|new|>")
    assert load_checkpoint(str(checkpoint)).eos_token_ids == (257,)


@pytest.mark.parametrize(("key", "value"), [("temperature", 101), ("repetition_penalty", 1e39)])
def test_defaults_that_no_request_might_bring_are_refused(
    checkpoint: Path, key: str, value: float
) -> None:
    edit(checkpoint / "generation_config.json", **{key: value})
    with pytest.raises(CheckpointError, match=rf"generation_config.json: {key}: got .*, expected"):
        load_checkpoint(str(checkpoint))
