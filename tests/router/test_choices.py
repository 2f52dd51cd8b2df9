"""Several choices of one prompt, between a real router and stub workers."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment
from router.stub_workers import stub_answer

from lengthwise_wire.capabilities import CAPABILITIES
from lengthwise_wire.errors import InternalError, NoWorkerAvailable
from lengthwise_wire.v1 import common_pb2, inference_pb2

NUM_TOKENS = 40
WHOLE = stub_answer(PROMPT, NUM_TOKENS)
SEEDED = common_pb2.SamplingParams(seed=2**64 - 2)

Choices = dict[int, list[inference_pb2.GenerateResponse]]


async def choices_of(deployment: Deployment, n: int, **fields: Any) -> Choices:
    """Every message of each choice, whose indices have no gap."""
    choices: Choices = defaultdict(list)
    async for message in deployment.call(n=n, **{"max_tokens": NUM_TOKENS, **fields}):
        if message.ByteSize():
            choices[message.choice].append(message)
    for messages in choices.values():
        indices = [m.index + i for m in messages for i in range(len(m.token_ids))]
        first = messages[0].index
        assert indices == list(range(first, first + len(indices)))
        assert [bool(message.finish_reason) for message in messages].count(True) == 1
        assert messages[-1].finish_reason
    assert sorted(choices) == list(range(n))
    return choices


def tokens(messages: list[inference_pb2.GenerateResponse]) -> list[int]:
    return [token_id for message in messages for token_id in message.token_ids]


@pytest.mark.parametrize("local_prefill", [False, True])
async def test_one_prefill_is_for_all_choices(deploy: Deploy, local_prefill: bool) -> None:
    deployment = await deploy(
        2, 2, local_prefill=local_prefill, metrics_listen="127.0.0.1:0", max_requests_in_flight=8
    )
    choices = await choices_of(deployment, 8, request_id="mine", sampling=SEEDED)
    assert all(tokens(messages) == WHOLE for messages in choices.values())
    requests = [request for worker in deployment.prefill for request in worker.requests]
    (reserves,) = [worker.reserves for worker in deployment.decode if worker.reserves]
    assert len(requests) + [r.local for r in reserves].count(True) == 8
    assert len(requests) == 1 or local_prefill
    assert {reserve.sampling.seed for reserve in reserves} == {2**64 - 2, 2**64 - 1, *range(6)}
    seeds = [choices[choice][0].seed for choice in range(8)]
    assert seeds == [2**64 - 2, 2**64 - 1, *range(6)]
    names = [choices[choice][0].request_id for choice in range(8)]
    assert names == ["mine", *(f"mine-{choice}" for choice in range(1, 8))]
    usages = [choices[choice][-1].usage for choice in range(8)]
    assert [usage.prompt_tokens for usage in usages] == [len(PROMPT), *[0] * 7]
    assert {usage.output_tokens for usage in usages} == {NUM_TOKENS}
    assert await deployment.metric("lengthwise_placements_total", reason="shared prompt") == 7
    assert await deployment.metric("lengthwise_arrived_requests_total") == 1
    assert await deployment.metric("lengthwise_requests_total", code="OK") == 8
    explained = await deployment.stub.Explain(inference_pb2.ExplainRequest(request_id="mine-7"))
    (attempt,) = explained.attempts
    assert attempt.placement_reason.startswith("shared prompt: ")
    assert (explained.prompt_tokens, explained.output_tokens) == (len(PROMPT), NUM_TOKENS)
    await deployment.nothing_is_held()


async def test_choices_that_end_with_their_first_token_lead_one_another(deploy: Deploy) -> None:
    deployment = await deploy(1, 1)
    stop = inference_pb2.StopConditions(token_ids=WHOLE[:1])
    choices = await choices_of(deployment, 5, stop=stop)
    assert all(tokens(messages) == WHOLE[:1] for messages in choices.values())
    await deployment.nothing_is_held()


async def test_one_token_each_needs_no_decode_worker(deploy: Deploy) -> None:
    deployment = await deploy(1, 0)
    deployment.prefill[0].delay_seconds = 0.05
    choices = await choices_of(deployment, 12, max_tokens=1)
    assert all(tokens(messages) == WHOLE[:1] for messages in choices.values())
    assert len(deployment.prefill[0].requests) == 12


async def test_stop_texts_end_choices_by_themselves(deploy: Deploy) -> None:
    deployment = await deploy(1, 1)
    text = bytes(WHOLE).decode()
    stop = inference_pb2.StopConditions(strings=[text[5:8]])
    choices = await choices_of(deployment, 3, stop=stop, top_logprobs=1)
    for messages in choices.values():
        assert "".join(message.text for message in messages) == text[:5]
        assert sum(len(message.logprobs) for message in messages) == len(tokens(messages))
    await deployment.nothing_is_held()


@pytest.mark.slow
async def test_choices_go_on_where_a_decode_worker_dies(deploy: Deploy) -> None:
    deployment = await deploy(1, 2, step_seconds=0.01)
    call = asyncio.create_task(choices_of(deployment, 6))
    await eventually(lambda: any(len(worker.held) == 6 for worker in deployment.decode))
    (lost,) = [worker for worker in deployment.decode if worker.held]
    await lost.stop()
    choices = await call
    assert all(tokens(messages) == WHOLE for messages in choices.values())
    assert all(messages[-1].timings.retries == 1 for messages in choices.values())
    await deployment.nothing_is_held()


async def test_the_first_choice_that_fails_over_still_leads(deploy: Deploy) -> None:
    deployment = await deploy(2, 1)
    for worker in deployment.prefill[:1]:
        worker.error = InternalError("broken")
    for _ in range(2):
        choices = await choices_of(deployment, 4)
        assert all(tokens(messages) == WHOLE for messages in choices.values())
    assert len(deployment.prefill[1].requests) == 2


@pytest.mark.slow
async def test_a_decode_worker_that_takes_no_more_is_left(deploy: Deploy) -> None:
    deployment = await deploy(1, 2, step_seconds=0.02)
    call = asyncio.create_task(choices_of(deployment, 4))
    await eventually(lambda: any(worker.reserves for worker in deployment.decode))
    (first,) = [worker for worker in deployment.decode if worker.reserves]
    first.reserve_error = NoWorkerAvailable("draining")
    choices = await call
    assert all(tokens(messages) == WHOLE for messages in choices.values())
    await deployment.nothing_is_held()


async def test_older_workers_get_requests_of_their_own(deploy: Deploy) -> None:
    deployment = await deploy(1, 1)
    deployment.decode[0].capabilities = list(CAPABILITIES)
    fleet = deployment.served.workers
    await eventually(lambda: "prefix_caching" not in fleet.views()[1][0].capabilities)
    choices = await choices_of(deployment, 4)
    assert all(tokens(messages) == WHOLE for messages in choices.values())
    assert len(deployment.prefill[0].requests) == 4
    assert not any(reserve.local for reserve in deployment.decode[0].reserves)


@pytest.mark.parametrize("moment", ["prefill", "transfer", "decode"])
async def test_a_caller_that_leaves_holds_nothing(deploy: Deploy, moment: str) -> None:
    deployment = await deploy(1, 1, step_seconds=0.02)
    prefill, decode = deployment.prefill[0], deployment.decode[0]
    prefill.hangs = moment == "prefill"
    decode.last_index = 0 if moment == "transfer" else None
    call = deployment.call(n=6, max_tokens=NUM_TOKENS)
    await eventually(lambda: prefill.requests)
    if moment == "decode":
        await eventually(lambda: len(decode.held) == 6)
    call.cancel()
    await deployment.nothing_is_held()
    await eventually(lambda: deployment.in_flight == 0)
    assert prefill.cancelled == (moment == "prefill")


async def test_the_first_error_ends_the_others(deploy: Deploy) -> None:
    deployment = await deploy(1, 1)
    deployment.decode[0].end_error = (9, "it is its own fault")
    deployment.decode[0].end_refuses = True
    error = await deployment.refused(n=5, max_tokens=NUM_TOKENS)
    assert error.code().name == "INVALID_ARGUMENT"
    await deployment.nothing_is_held()
    await eventually(lambda: deployment.in_flight == 0)


@pytest.mark.slow
async def test_a_stream_is_kept_alive_while_all_choices_wait(deploy: Deploy) -> None:
    deployment = await deploy(1, 1, prefill_timeout_seconds=5.0)
    deployment.prefill[0].delay_seconds = 0.4
    messages = [message async for message in deployment.call(n=3, max_tokens=2)]
    assert any(not message.ByteSize() for message in messages[:-3])


async def test_choices_take_places_as_these_become_free(deploy: Deploy) -> None:
    deployment = await deploy(1, 1, max_requests_in_flight=2, max_queued=4)
    choices = await choices_of(deployment, 6)
    assert all(tokens(messages) == WHOLE for messages in choices.values())
    error = await deployment.refused(n=7, max_tokens=4)
    assert error.code().name == "INVALID_ARGUMENT"
    assert "n: got 7, expected at most 6" in error.details()
    assert deployment.in_flight == 0


async def test_resumed_choices_go_on_at_their_next_index(deploy: Deploy) -> None:
    deployment = await deploy(1, 1)
    received = [WHOLE[:7], [], WHOLE]
    resume = inference_pb2.Resume(
        token_ids=received[0],
        further_choices=[common_pb2.TokenIds(ids=ids) for ids in received[1:]],
    )
    choices = await choices_of(deployment, 3, sampling=SEEDED, resume=resume)
    for choice, messages in choices.items():
        assert messages[0].index == len(received[choice])
        assert received[choice] + tokens(messages) == WHOLE


BAD: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n: got 0, expected an integer in [1, 128]"),
    ({"n": 129}, "n: got 129, expected an integer in [1, 128]"),
    ({"n": 2**32 - 1}, "n: got 4294967295, expected an integer in [1, 128]"),
    ({"n": 101, "request_id": "i" * 125}, "request_id: got 129 characters"),
    (
        {
            "n": 4,
            "sampling": SEEDED,
            "resume": inference_pb2.Resume(further_choices=[common_pb2.TokenIds(ids=[1])]),
        },
        "resume.further_choices: got 1, expected none or 3",
    ),
    (
        {"n": 2, "resume": inference_pb2.Resume(further_choices=[common_pb2.TokenIds(ids=[1])])},
        "sampling.seed: got none with resume",
    ),
    (
        {
            "n": 2,
            "sampling": SEEDED,
            "resume": inference_pb2.Resume(further_choices=[common_pb2.TokenIds(ids=[999])]),
        },
        "resume.further_choices[0].ids: got 999",
    ),
    (
        {
            "n": 2,
            "max_tokens": 2,
            "sampling": SEEDED,
            "resume": inference_pb2.Resume(further_choices=[common_pb2.TokenIds(ids=[1, 2, 3])]),
        },
        "resume.token_ids: got 3, expected at most max_tokens, which is 2",
    ),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("fields", "reason"), BAD)
async def test_what_cannot_be_served_is_refused(
    standing: Deployment, fields: dict[str, Any], reason: str
) -> None:
    error = await standing.refused(**{"max_tokens": 4, **fields})
    assert error.code().name == "INVALID_ARGUMENT"
    assert reason in error.details()
    await eventually(lambda: standing.in_flight == 0)
    await standing.nothing_is_held()
