"""The life of a request when nothing goes wrong."""

import asyncio
import time
from pathlib import Path

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy
from router.stub_workers import MODEL, stub_answer, stub_logprobs

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_router.text.encoder import INLINE_CHARACTERS
from lengthwise_wire.v1 import common_pb2, inference_pb2


async def test_tokens_come_in_order_and_their_text_with_them(deploy: Deploy) -> None:
    deployment = await deploy()
    answer = await deployment.generate(max_tokens=50)
    assert answer.token_ids == stub_answer(PROMPT, 50)
    assert answer.text == bytes(answer.token_ids).decode()
    assert answer.messages[0].index == 0
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_LENGTH


async def test_first_message_is_the_first_token_alone_and_names_request_and_seed(
    deploy: Deploy,
) -> None:
    deployment = await deploy()
    answer = await deployment.generate(
        max_tokens=5, request_id="mine", sampling=common_pb2.SamplingParams(seed=7)
    )
    first, *others = answer.messages
    assert list(first.token_ids) == stub_answer(PROMPT, 1)
    assert (first.request_id, first.seed) == ("mine", 7)
    assert not any(message.request_id or message.HasField("seed") for message in others)


async def test_a_request_without_name_and_seed_is_given_both(deploy: Deploy) -> None:
    deployment = await deploy()
    one, other = [(await deployment.generate(max_tokens=1)).last for _ in range(2)]
    assert one.request_id
    assert one.HasField("seed")
    assert (one.request_id, one.seed) != (other.request_id, other.seed)


async def test_one_token_needs_no_decode_worker(deploy: Deploy) -> None:
    deployment = await deploy()
    answer = await deployment.generate(max_tokens=1)
    assert answer.token_ids == stub_answer(PROMPT, 1)
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert not deployment.decode[0].reserves
    assert not deployment.prefill[0].requests[0].HasField("destination")


async def test_an_end_of_sequence_token_is_counted_but_not_shown(deploy: Deploy) -> None:
    deployment = await deploy()
    *_, stop = stub_answer(PROMPT, 6)
    answer = await deployment.generate(
        max_tokens=50, stop=inference_pb2.StopConditions(token_ids=[stop])
    )
    expected = stub_answer(PROMPT, 6)
    assert answer.token_ids == expected[: expected.index(stop) + 1]
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_STOP
    assert answer.last.usage.output_tokens == len(answer.token_ids)


async def test_a_first_token_that_ends_the_request_gives_the_reservation_back(
    deploy: Deploy,
) -> None:
    deployment = await deploy()
    stop = stub_answer(PROMPT, 1)
    answer = await deployment.generate(
        max_tokens=50, stop=inference_pb2.StopConditions(token_ids=stop)
    )
    assert answer.token_ids == stop
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_STOP
    await deployment.nothing_is_held()
    assert deployment.decode[0].released == [deployment.decode[0].reserves[0].reservation]


async def test_workers_receive_the_models_own_stop_tokens_unless_they_are_ignored(
    deploy: Deploy,
) -> None:
    deployment = await deploy()
    own = deployment.served.checkpoint.eos_token_ids
    await deployment.generate(max_tokens=2, stop=inference_pb2.StopConditions(token_ids=[3]))
    await deployment.generate(
        max_tokens=2, stop=inference_pb2.StopConditions(token_ids=[3], ignore_eos=True)
    )
    sent = [tuple(reserve.stop_token_ids) for reserve in deployment.decode[0].reserves]
    assert own
    assert sent == [(*own, 3), (3,)]


async def test_a_stop_string_ends_the_text_before_it_and_releases_the_request(
    deploy: Deploy,
) -> None:
    deployment = await deploy()
    text = bytes(stub_answer(PROMPT, 40)).decode()
    stop = text[20:23]
    answer = await deployment.generate(
        max_tokens=400, stop=inference_pb2.StopConditions(strings=[stop, "never there"])
    )
    assert answer.text == text[: text.index(stop)]
    assert answer.token_ids == stub_answer(PROMPT, text.index(stop) + 3)
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_STOP
    await deployment.nothing_is_held()


async def test_a_stop_string_that_completes_before_min_tokens_ends_nothing(deploy: Deploy) -> None:
    """Nor does it after a resumption: positions count from the prompt's end."""
    deployment = await deploy()
    token_ids = stub_answer(PROMPT, 60)
    text = bytes(token_ids).decode()
    early, late = text[4:7], text[20:23]
    assert text.index(late) == 20
    assert text.count(early, 0, 30) == 1
    stop = inference_pb2.StopConditions(strings=[early, late])
    for min_tokens, end in ((6, 4), (7, 20), (22, 20)):
        sampling = common_pb2.SamplingParams(seed=5, min_tokens=min_tokens)
        answer = await deployment.generate(max_tokens=60, stop=stop, sampling=sampling)
        assert answer.text == text[:end]
        assert answer.last.finish_reason == common_pb2.FINISH_REASON_STOP
        if end == 20:
            resume = inference_pb2.Resume(token_ids=token_ids[:9])
            rest = await deployment.generate(
                max_tokens=60, stop=stop, sampling=sampling, resume=resume
            )
            assert rest.text == text[9:end]
    sampling = common_pb2.SamplingParams(min_tokens=60)
    answer = await deployment.generate(max_tokens=60, stop=stop, sampling=sampling)
    assert answer.text == text
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_LENGTH


async def test_text_held_back_for_a_stop_string_comes_with_the_end(deploy: Deploy) -> None:
    deployment = await deploy()
    text = bytes(stub_answer(PROMPT, 20)).decode()
    answer = await deployment.generate(
        max_tokens=20, stop=inference_pb2.StopConditions(strings=[text[-3:] + "#"])
    )
    assert answer.text == text


async def test_every_sampling_value_is_set_between_router_and_workers(deploy: Deploy) -> None:
    deployment = await deploy()
    sampling = common_pb2.SamplingParams(top_k=5, logit_bias={7: 1.5})
    await deployment.generate(max_tokens=2, sampling=sampling)
    sent = deployment.prefill[0].requests[0].sampling
    assert sent == deployment.decode[0].reserves[0].sampling
    assert sent.top_k == 5
    names = {descriptor.name for descriptor, _ in sent.ListFields()}
    assert names == set(sent.DESCRIPTOR.fields_by_name)


async def test_log_probabilities_come_one_per_token(deploy: Deploy) -> None:
    deployment = await deploy()
    answer = await deployment.generate(max_tokens=20, top_logprobs=2)
    sent = [logprobs for message in answer.messages for logprobs in message.logprobs]
    assert sent == [stub_logprobs(token_id, 2) for token_id in stub_answer(PROMPT, 20)]


async def test_the_last_message_has_usage_and_where_the_time_went(deploy: Deploy) -> None:
    deployment = await deploy()
    answer = await deployment.generate(max_tokens=10)
    assert answer.last.usage == inference_pb2.Usage(prompt_tokens=len(PROMPT), output_tokens=10)
    timings = answer.last.timings
    assert (timings.queue_seconds, timings.prefill_seconds) == (0.25, 0.5)
    assert 0 < timings.reserve_seconds < timings.time_to_first_token_seconds
    assert timings.time_to_first_token_seconds < timings.total_seconds
    decoding = timings.total_seconds - timings.time_to_first_token_seconds
    assert abs(timings.time_per_output_token_seconds - decoding / 9) < 1e-6
    assert timings.retries == 0
    assert not any(message.HasField("usage") for message in answer.messages[:-1])


@pytest.mark.slow
async def test_unset_max_tokens_is_as_many_as_the_context_holds(deploy: Deploy) -> None:
    deployment = await deploy(step_seconds=0.0005)
    answer = await deployment.generate()
    assert len(answer.token_ids) == 512 - len(PROMPT)
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_LENGTH


@pytest.mark.slow
async def test_decode_workers_are_told_how_long_to_gather_tokens(deploy: Deploy) -> None:
    deployment = await deploy(message_interval_seconds=0.05, num_decode=2)
    await deployment.generate()
    assert [worker.interval_seconds for worker in deployment.decode] == [0.05, 0.05]


async def test_a_token_leaves_as_soon_as_it_is_there(deploy: Deploy) -> None:
    deployment = await deploy(step_seconds=0.02)
    answer = await deployment.generate(max_tokens=10)
    assert len(answer.messages) == 10


@pytest.mark.slow
async def test_a_silent_stream_is_kept_alive_in_every_phase(deploy: Deploy) -> None:
    deployment = await deploy(
        keepalive_seconds=0.1, prefill_timeout_seconds=5.0, step_stall_seconds=5.0
    )
    deployment.prefill[0].delay_seconds = 0.6
    began_at = time.monotonic()
    answer = await deployment.generate(max_tokens=5)
    assert 2 <= answer.keepalives <= (time.monotonic() - began_at) / 0.1
    assert not answer.messages[0].ByteSize()
    assert answer.token_ids == stub_answer(PROMPT, 5)


@pytest.mark.slow
async def test_many_requests_at_once_each_get_their_own_tokens(deploy: Deploy) -> None:
    deployment = await deploy(num_prefill=2, num_decode=2)
    prompts = [tuple(b"request %d" % number) for number in range(100)]
    answers = await asyncio.gather(
        *(deployment.generate(prompt=prompt, max_tokens=20) for prompt in prompts)
    )
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.token_ids == stub_answer(prompt, 20)
    assert all(worker.reserves for worker in deployment.decode)
    assert all(worker.requests for worker in deployment.prefill)
    await deployment.nothing_is_held()


async def test_rows_of_unknown_reservations_and_repeated_rows_are_ignored(deploy: Deploy) -> None:
    deployment = await deploy()
    deployment.decode[0].repeat = True
    call = deployment.call(max_tokens=20)
    await eventually(lambda: deployment.decode[0].held)
    deployment.decode[0].send_rows(reservation=10**9, indices=[1, 2])
    token_ids = [token_id async for message in call for token_id in message.token_ids]
    assert token_ids == stub_answer(PROMPT, 20)


async def test_a_long_text_is_tokenised_off_the_event_loop_and_served(
    deploy: Deploy, tmp_path: Path
) -> None:
    model = write_toy_checkpoint(tmp_path / MODEL, context_length=65_536)
    deployment = await deploy(model=str(model))
    text = "word " * 3_000
    assert len(text) > INLINE_CHARACTERS
    answer = await deployment.generate(prompt=text, max_tokens=3)
    assert answer.token_ids == stub_answer(text.encode(), 3)


async def test_more_requests_than_the_limit_learn_when_to_come_back(deploy: Deploy) -> None:
    deployment = await deploy(max_requests_in_flight=2, max_queued=0)
    deployment.prefill[0].hangs = True
    calls = [deployment.call(max_tokens=3) for _ in range(2)]
    await eventually(lambda: len(deployment.prefill[0].requests) == 2)
    error = await deployment.refused(max_tokens=3)
    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert float(error.trailing_metadata()["lengthwise-retry-after"]) > 0
    for call in calls:
        call.cancel()
    deployment.prefill[0].hangs = False
    await deployment.nothing_is_held()
    assert len((await deployment.generate(max_tokens=3)).token_ids) == 3


async def test_the_model_is_described(deploy: Deploy) -> None:
    deployment = await deploy()
    model = await deployment.stub.GetModel(inference_pb2.GetModelRequest())
    assert (model.model, model.context_length, model.vocab_size) == ("stub", 512, 260)
    assert model.model_fingerprint == "weights"
    assert model.default_sampling.HasField("temperature")
    assert not model.default_sampling.HasField("seed")
    assert not model.has_chat_template


@pytest.mark.slow
async def test_a_draining_router_finishes_what_runs_and_refuses_what_is_new(
    deploy: Deploy,
) -> None:
    deployment = await deploy(step_seconds=0.01)
    call = deployment.call(max_tokens=50)
    messages = aiter(call)
    count = len((await anext(messages)).token_ids)
    draining = asyncio.create_task(deployment.app.drain())
    await asyncio.sleep(0)
    error = await deployment.refused(max_tokens=3)
    assert error.code().name == "UNAVAILABLE"
    count += sum([len(message.token_ids) async for message in messages])
    assert count == 50
    await asyncio.wait_for(draining, 10)
