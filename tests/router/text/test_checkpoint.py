"""What a router reads of a checkpoint, and what it says of one it cannot use."""

import json
from pathlib import Path
from typing import Any

import pytest

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_policy.sampling import SamplingParameters
from lengthwise_router.text.checkpoint import load_checkpoint
from lengthwise_router.text.tokenization import PromptEncoder
from lengthwise_runtime.config import ConfigError
from lengthwise_wire.v1 import inference_pb2


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_toy_checkpoint(tmp_path / "toy", context_length=512)


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**values, **changes}))


def test_the_folder_names_the_model_unless_told_otherwise(checkpoint: Path) -> None:
    assert load_checkpoint(str(checkpoint)).name == "toy"
    assert load_checkpoint(f"{checkpoint}/").name == "toy"
    assert load_checkpoint(str(checkpoint), "mine").name == "mine"


def test_context_vocabulary_and_ends_come_from_config(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    assert (loaded.context_length, loaded.vocab_size) == (512, 260)
    assert loaded.eos_token_ids == (257,)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        pytest.param({"eos_token_id": [3, 4]}, (3, 4), id="several"),
        pytest.param({"eos_token_id": None}, (257,), id="config.json's where there are none"),
    ],
)
def test_the_generation_config_says_what_ends(
    checkpoint: Path, generation: dict[str, Any], expected: tuple[int, ...]
) -> None:
    edit(checkpoint / "generation_config.json", **generation)
    assert load_checkpoint(str(checkpoint)).eos_token_ids == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        pytest.param({}, SamplingParameters(), id="nothing said"),
        pytest.param(
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20},
            SamplingParameters(temperature=0.6, top_p=0.9, top_k=20),
            id="as recommended",
        ),
        pytest.param(
            {"do_sample": False, "temperature": 0.6}, SamplingParameters(temperature=0), id="greedy"
        ),
        pytest.param(
            {"temperature": None, "repetition_penalty": 1.1},
            SamplingParameters(repetition_penalty=1.1),
            id="null is nothing",
        ),
    ],
)
def test_defaults_are_the_makers_recommendation(
    checkpoint: Path, generation: dict[str, Any], expected: SamplingParameters
) -> None:
    edit(checkpoint / "generation_config.json", **generation)
    assert load_checkpoint(str(checkpoint)).default_sampling == expected


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_yarn_stretches_the_context(checkpoint: Path, key: str) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    edit(checkpoint / "config.json", **{key: scaling})
    assert load_checkpoint(str(checkpoint)).context_length == 2048


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"chat_template": "a"}, "a", id="one"),
        pytest.param(
            {
                "chat_template": [
                    {"name": "tool_use", "template": "t"},
                    {"name": "default", "template": "d"},
                ]
            },
            "d",
            id="the default of several",
        ),
        pytest.param({}, None, id="none"),
    ],
)
def test_the_chat_template_comes_from_the_tokenizer_config(
    checkpoint: Path, config: dict[str, Any], expected: str | None
) -> None:
    edit(checkpoint / "tokenizer_config.json", **config)
    assert load_checkpoint(str(checkpoint)).chat_template == expected


def test_a_template_file_comes_before_the_tokenizer_config(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", chat_template="old")
    (checkpoint / "chat_template.jinja").write_text("new")
    assert load_checkpoint(str(checkpoint)).chat_template == "new"


def test_conversations_are_rendered_and_encoded_without_more_special_tokens(
    checkpoint: Path,
) -> None:
    (checkpoint / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"
    )
    edit(checkpoint / "tokenizer_config.json", bos_token={"content": "<|begin|>"})
    encoder = PromptEncoder(load_checkpoint(str(checkpoint)), threads=1, max_waiting=1)
    messages = [inference_pb2.ChatMessage(role="user", content="hi")]
    prompt = inference_pb2.Prompt(conversation=inference_pb2.Conversation(messages=messages))
    assert encoder.encode(prompt) == [256, *b"user:hi"]
    encoder.close()


def test_truncation_and_padding_of_the_training_are_forgotten(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    edit(
        path,
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
    encoder = PromptEncoder(load_checkpoint(str(checkpoint)), threads=1, max_waiting=1)
    assert encoder.encode(inference_pb2.Prompt(text="longer than four")) == [*b"longer than four"]
    encoder.close()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        pytest.param("config.json", None, "config.json: not found", id="no config"),
        pytest.param("config.json", "{", "config.json: not JSON", id="broken config"),
        pytest.param("config.json", "[]", "expected an object, got list", id="no object"),
        pytest.param("config.json", "{}", "expected an integer >= 1, got None", id="no context"),
        pytest.param("tokenizer.json", None, "tokenizer.json: not found", id="no tokenizer"),
        pytest.param("tokenizer.json", "{}", "not a tokenizer", id="broken tokenizer"),
        pytest.param(
            "generation_config.json", '{"top_p": "x"}', "top_p: expected a number", id="top_p"
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    checkpoint: Path, file: str, content: str | None, told: str
) -> None:
    path = checkpoint / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_checkpoint(str(checkpoint))


@pytest.mark.parametrize("model", ["/nowhere/at/all", "./nothing", "one-part"])
def test_what_is_neither_folder_nor_hub_id_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="expected a checkpoint folder or a hub id"):
        load_checkpoint(model)
