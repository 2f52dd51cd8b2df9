"""A request whose router was lost goes on at another one: the two halves are the whole."""

from typing import Any

import pytest
from router.deployment import PROMPT, Deploy, Deployment
from router.stub_workers import stub_answer

from lengthwise_wire.v1 import common_pb2, inference_pb2

SEEDED = common_pb2.SamplingParams(seed=5)
STOP, LENGTH = common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH


def _resume(token_ids: list[int]) -> inference_pb2.Resume:
    return inference_pb2.Resume(token_ids=token_ids)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("received", [1, 2, 19, 38, 39])
async def test_the_stream_goes_on_at_the_next_index(standing: Deployment, received: int) -> None:
    whole = stub_answer(PROMPT, 40)
    answer = await standing.generate(
        max_tokens=40, sampling=SEEDED, resume=_resume(whole[:received])
    )
    assert answer.messages[0].index == received
    assert answer.token_ids == whole[received:]
    assert answer.text == bytes(whole[received:]).decode()
    assert answer.last.usage == inference_pb2.Usage(prompt_tokens=16, output_tokens=40)
    assert answer.messages[0].seed == 5


async def test_workers_receive_where_the_prompt_ends(deploy: Deploy) -> None:
    deployment = await deploy()
    whole = stub_answer(PROMPT, 10)
    await deployment.generate(max_tokens=10, sampling=SEEDED, resume=_resume(whole[:4]))
    (prefill,), (reserve,) = deployment.prefill[0].requests, deployment.decode[0].reserves
    for sent in (prefill, reserve):
        assert list(sent.token_ids) == [*PROMPT, *whole[:4]]
        assert sent.num_prompt_tokens == len(PROMPT)
    assert reserve.max_tokens == 6


async def test_text_that_was_held_back_comes_after_the_resumption(deploy: Deploy) -> None:
    deployment = await deploy()
    whole = stub_answer(PROMPT, 20)
    text = bytes(whole).decode()
    stop = inference_pb2.StopConditions(strings=[text[3:6] + "never"])
    first = await deployment.generate(max_tokens=20, sampling=SEEDED, stop=stop)
    received = [message for message in first.messages if message.index + 1 <= 5][:1]
    num_tokens = sum(len(message.token_ids) for message in received)
    second = await deployment.generate(
        max_tokens=20, sampling=SEEDED, stop=stop, resume=_resume(whole[:num_tokens])
    )
    assert "".join(message.text for message in received) + second.text == text


async def test_half_a_character_received_is_completed_after_the_resumption(deploy: Deploy) -> None:
    deployment = await deploy()
    first, *_ = stub_answer((1, 2, 0xC3), 1)
    answer = await deployment.generate(
        prompt=(1, 2), max_tokens=2, sampling=SEEDED, resume=_resume([0xC3])
    )
    assert answer.token_ids == [first]
    assert answer.text == bytes([0xC3, first]).decode(errors="replace")


@pytest.mark.parametrize(
    ("fields", "received", "reason"),
    [
        pytest.param({"max_tokens": 5}, stub_answer(PROMPT, 5), LENGTH, id="max_tokens"),
        pytest.param({"max_tokens": 9}, [70, 71, 257], STOP, id="end of sequence"),
        pytest.param(
            {"max_tokens": 9, "stop": inference_pb2.StopConditions(strings=["bc"])},
            list(b"abc"),
            STOP,
            id="stop string",
        ),
    ],
)
async def test_a_request_that_was_over_ends_at_once(
    deploy: Deploy,
    fields: dict[str, Any],
    received: list[int],
    reason: common_pb2.FinishReason,
) -> None:
    deployment = await deploy()
    answer = await deployment.generate(sampling=SEEDED, resume=_resume(received), **fields)
    (message,) = answer.messages
    assert (message.index, list(message.token_ids)) == (len(received), [])
    assert message.finish_reason == reason
    assert message.usage.output_tokens == len(received)
    assert not deployment.prefill[0].requests
