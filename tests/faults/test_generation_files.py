"""generation_config.json as people ship it, and the tokens that end an answer: routers and workers
read the same, and a chat model stops where its makers meant it to."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from faults.checkpoints import CHATML, add_tokens, write_json
from faults.processes import Serve, alone
from router import stub_workers
from router.deployment import Answer, Deployment

from lengthwise_wire.v1 import common_pb2, inference_pb2

AS_SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "nulls": dict.fromkeys(("do_sample", "temperature", "top_k", "eos_token_id")),
    "whole numbers": {
        "temperature": 1,
        "top_p": 1,
        "repetition_penalty": 1,
        "eos_token_id": [257, 257],
    },
    "greedy with leftovers": {
        "do_sample": False,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 0,
    },
    "temperature 0": {"do_sample": True, "temperature": 0},
    "top_p 0": {"do_sample": True, "temperature": 1.0, "top_p": 0},
}
ALL_TOKENS = {"do_sample": True, "temperature": 0.7, "top_k": -1}


async def test_routers_serve_what_people_ship(toy: Path, serve: Serve) -> None:
    for generation in AS_SHIPPED.values():
        write_json(toy, "generation_config.json", generation)
        deployment = await serve(toy)
        assert len((await deployment.generate(max_tokens=2)).token_ids) == 2, generation


async def test_a_router_takes_top_k_of_minus_one_for_all(toy: Path, serve: Serve) -> None:
    write_json(toy, "generation_config.json", ALL_TOKENS)
    deployment = await serve(toy)
    model = await deployment.stub.GetModel(inference_pb2.GetModelRequest())
    assert model.default_sampling.top_k == 0
    await deployment.generate(max_tokens=2)
    assert deployment.prefill[0].requests[0].sampling.top_k == 0


@pytest.mark.slow
def test_a_worker_starts_with_top_k_of_minus_one(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(make_checkpoint("llama"), tmp_path / "model")
    write_json(model, "generation_config.json", ALL_TOKENS)
    with alone("decode", model, tmp_path):
        pass


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", float("nan")),
        ("repetition_penalty", float("inf")),
    ],
)
async def test_defaults_that_no_request_might_bring_are_refused_at_the_start(
    toy: Path, serve: Serve, key: str, value: float
) -> None:
    write_json(toy, "generation_config.json", {"do_sample": True, key: value})
    with pytest.raises(Exception, match=key) as caught:
        await serve(toy)
    assert type(caught.value).__name__ == "ConfigError"


@pytest.fixture
async def chat(toy: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A model whose tokenizer names <|im_end|> as the end of a turn, and config.json another token;
    it answers `ok<|im_end|>XYXY…`."""
    _, turn_ends = add_tokens(toy, ["<|im_start|>", "<|im_end|>"])
    names = {"eos_token": "<|im_end|>", "chat_template": CHATML}
    write_json(toy, "tokenizer_config.json", names)
    o, k, x, y = b"okXY"
    table = {ord("\n"): o, o: k, k: turn_ends, turn_ends: x, x: y, y: x}
    monkeypatch.setattr(stub_workers, "stub_next_token", lambda token_ids: table[token_ids[-1]])
    return await serve(toy, no_worker_seconds=0.1)


async def hi(deployment: Deployment, **stop: Any) -> Answer:
    turn = inference_pb2.ChatMessage(role="user", content="hi")
    conversation = inference_pb2.Conversation(messages=[turn])
    return await deployment.generate(
        prompt=inference_pb2.Prompt(conversation=conversation),
        max_tokens=8,
        stop=inference_pb2.StopConditions(**stop),
    )


async def test_a_turn_ends_where_the_tokenizer_says_it_does(chat: Deployment) -> None:
    answer = await hi(chat)
    assert (answer.text, answer.last.finish_reason) == ("ok", common_pb2.FINISH_REASON_STOP)


async def test_a_special_token_can_be_a_stop_string(chat: Deployment) -> None:
    answer = await hi(chat, strings=["<|im_end|>"])
    assert (answer.text, answer.last.finish_reason) == ("ok", common_pb2.FINISH_REASON_STOP)


async def test_a_special_token_can_be_a_stop_token(chat: Deployment) -> None:
    answer = await hi(chat, token_ids=[261])
    assert (answer.text, answer.last.finish_reason) == ("ok", common_pb2.FINISH_REASON_STOP)


@pytest.mark.parametrize(
    ("stop", "expected"), [("<|im_end|>", ("ok", 3)), ("k<|im_end|>X", ("o", 4))]
)
async def test_a_special_token_that_ends_nothing_itself_can_be_part_of_a_stop_string(
    chat: Deployment, stop: str, expected: tuple[str, int]
) -> None:
    answer = await hi(chat, strings=["<|im_start|>", stop], ignore_eos=True)
    assert (answer.text, len(answer.token_ids)) == expected
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_STOP
