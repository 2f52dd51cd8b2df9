"""Where a prompt ends and the answer begins, and prompts that turn out to be none: prompt and
answer are the text of all their tokens, and what cannot be served is refused in the words of the
field that the caller filled."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from faults.checkpoints import (
    add_tokens,
    change_config,
    id_of,
    llama2_tokenizer,
    read_json,
    write_json,
)
from faults.processes import Serve
from router import stub_workers
from router.deployment import Deployment
from tokenizers import Tokenizer, normalizers

from lengthwise_wire.v1 import common_pb2, inference_pb2

WORDS = ("▁the", "▁cat", "▁sat", "▁here")
SMILE = list("🙂".encode())


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Each token's successor, as stub workers answer."""
    table: dict[int, int] = {}
    monkeypatch.setattr(stub_workers, "stub_next_token", lambda token_ids: table[token_ids[-1]])
    return table


@pytest.fixture
def llama2(toy: Path, answers: dict[int, int]) -> Tokenizer:
    """The toy checkpoint's from now on; the answer goes through the words."""
    tokenizer = llama2_tokenizer(toy, WORDS)
    ids = [id_of(tokenizer, word) for word in (*WORDS, "</s>")]
    answers.update(pairwise(ids))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    write_json(toy, "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast", **names})
    write_json(toy, "generation_config.json", {"eos_token_id": ids[-1]})
    return tokenizer


def greedy(**fields: Any) -> dict[str, Any]:
    return {"max_tokens": 8, "sampling": common_pb2.SamplingParams(temperature=0), **fields}


async def test_prompt_and_answer_are_the_text_of_all_tokens_where_words_begin_with_spaces(
    toy: Path, llama2: Tokenizer, serve: Serve
) -> None:
    deployment = await serve(toy)
    answer = await deployment.generate(prompt="the", **greedy())
    whole = llama2.decode([*llama2.encode("the").ids, *answer.token_ids])
    assert whole == "the cat sat here"
    assert "the" + answer.text == whole


async def test_a_stop_string_that_begins_with_the_first_tokens_space_is_found(
    toy: Path, llama2: Tokenizer, serve: Serve
) -> None:
    deployment = await serve(toy)
    stop = inference_pb2.StopConditions(strings=[" sat"])
    answer = await deployment.generate(prompt="the cat", **greedy(stop=stop))
    assert answer.text == ""


async def test_a_resumed_stream_goes_on_in_the_middle_of_the_text(
    toy: Path, llama2: Tokenizer, serve: Serve
) -> None:
    deployment = await serve(toy)
    cat = inference_pb2.Resume(token_ids=[id_of(llama2, "▁cat")])
    sampling = common_pb2.SamplingParams(temperature=0, seed=1)
    answer = await deployment.generate(prompt="the", **greedy(resume=cat, sampling=sampling))
    assert answer.text == " sat here"


async def test_a_stream_taken_up_after_any_token_gives_the_unbroken_text(
    toy: Path, llama2: Tokenizer, serve: Serve
) -> None:
    deployment = await serve(toy)
    sampling = common_pb2.SamplingParams(temperature=0, seed=1)
    prompt_ids = llama2.encode("the").ids
    whole = await deployment.generate(prompt="the", **greedy())
    for count in range(1, len(whole.token_ids)):
        begun = whole.token_ids[:count]
        answer = await deployment.generate(
            prompt="the",
            **greedy(resume=inference_pb2.Resume(token_ids=begun), sampling=sampling),
        )
        before = llama2.decode([*prompt_ids, *begun]).removeprefix("the")
        assert before + answer.text == whole.text


async def test_a_character_that_the_prompt_began_is_ended_by_the_answer(
    toy: Path, answers: dict[int, int], serve: Serve
) -> None:
    answers.update({SMILE[1]: SMILE[2], SMILE[2]: SMILE[3], SMILE[3]: ord("!"), ord("!"): 257})
    deployment = await serve(toy)
    answer = await deployment.generate(prompt=[*b"hi ", *SMILE[:2]], **greedy())
    assert answer.token_ids[:3] == [SMILE[2], SMILE[3], ord("!")]
    assert "hi " + answer.text == "hi 🙂!"


async def refused(deployment: Deployment, **fields: Any) -> str:
    """Why the router refuses it; no worker is asked."""
    error = await deployment.refused(**greedy(), **fields)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not any(worker.reserves for worker in deployment.decode)
    assert not any(worker.requests for worker in deployment.prefill)
    return str(error.details())


def conversation(**message: str) -> inference_pb2.Prompt:
    turn = inference_pb2.ChatMessage(
        role=message.get("role", ""), content=message.get("content", "")
    )
    return inference_pb2.Prompt(conversation=inference_pb2.Conversation(messages=[turn]))


@pytest.mark.parametrize("special", [True, False])
async def test_text_with_a_token_that_the_model_has_no_row_for_is_refused_as_text(
    toy: Path, serve: Serve, special: bool
) -> None:
    (pad,) = add_tokens(toy, ["[PAD]"], special=special)
    change_config(toy, vocab_size=pad)
    deployment = await serve(toy)
    told = await refused(deployment, prompt="fill [PAD] in")
    assert "prompt.text" in told
    assert "token_ids" not in told


async def test_ids_that_the_model_has_no_row_for_are_refused_as_ids(
    toy: Path, serve: Serve
) -> None:
    deployment = await serve(toy)
    vocab_size = read_json(toy, "config.json")["vocab_size"]
    assert "prompt.token_ids" in await refused(deployment, prompt=[vocab_size])


EMPTY: Mapping[str, tuple[inference_pb2.Prompt, str]] = {
    "text": (inference_pb2.Prompt(text="   "), "prompt.text"),
    "a system message alone": (
        conversation(role="system", content="be kind"),
        "prompt.conversation",
    ),
    "a message without content": (conversation(role="user"), "prompt.conversation"),
}


@pytest.mark.parametrize(("prompt", "field"), EMPTY.values(), ids=EMPTY.keys())
async def test_a_prompt_that_comes_to_no_tokens_is_refused_by_its_field(
    toy: Path, serve: Serve, prompt: inference_pb2.Prompt, field: str
) -> None:
    path = str(toy / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.save(path)
    said = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    write_json(toy, "tokenizer_config.json", {"chat_template": said})
    deployment = await serve(toy, max_attempts=2)
    assert field in await refused(deployment, prompt=prompt)
