"""Both clients against a real server: what arrives, what is sent, and what each failure becomes."""

import time
from typing import Any

import pytest
from client.callers import Caller
from client.scripted_router import SEED, Responses, Router, fail, first, last, words

from lengthwise import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    LengthwiseError,
    Message,
    ModelNotFound,
    NoWorkerAvailable,
    Overloaded,
    PromptTooLong,
    Retry,
    Stale,
    TransferFailed,
    Unauthenticated,
)
from lengthwise_wire.v1 import common_pb2, inference_pb2


def test_chunks_join_to_the_completion(router: Router, caller: Caller) -> None:
    router.scripts.append(lambda request, _: iter([first(request), words(0, "a ", "b "), last(2)]))
    chunks = caller.stream(router.address, "hi")
    assert [chunk.text for chunk in chunks] == ["a b ", ""]
    assert [(token.index, token.id) for token in chunks[0].tokens] == [(0, 1000), (1, 1001)]
    assert chunks[0].finish_reason is None
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.output_tokens == 2
    assert chunks[-1].timings is not None
    assert chunks[-1].timings.total_seconds == 0.25
    assert {chunk.seed for chunk in chunks} == {SEED}
    assert {chunk.request_id for chunk in chunks} == {router.requests[0].request_id}


def test_signs_of_life_are_not_handed_out(router: Router, caller: Caller) -> None:
    alive = inference_pb2.GenerateResponse()
    router.scripts.append(
        lambda request, _: iter([alive, first(request), alive, words(0, "a"), alive, last(1)])
    )
    assert [chunk.text for chunk in caller.stream(router.address, "hi")] == ["a", ""]


def test_log_probabilities_come_with_their_tokens(router: Router, caller: Caller) -> None:
    def script(request: inference_pb2.GenerateRequest, _: object) -> Responses:
        message = words(0, "a", "b")
        for value in (-0.5, -1.5):
            top = [common_pb2.Logprob(token_id=5, logprob=-0.25)]
            message.logprobs.append(common_pb2.TokenLogprobs(logprob=value, top=top))
        yield message
        yield last(2)

    router.scripts.append(script)
    tokens = caller.stream(router.address, "hi", top_logprobs=1)[0].tokens
    assert [token.logprobs.logprob for token in tokens if token.logprobs] == [-0.5, -1.5]
    assert tokens[0].logprobs is not None
    assert tokens[0].logprobs.top[0].token_id == 5


def test_every_option_reaches_the_router(router: Router, caller: Caller) -> None:
    router.scripts.append(lambda request, _: iter([last(0)]))
    caller.stream(
        router.address,
        [3, 4, 5],
        temperature=0.5,
        top_k=7,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=2.0,
        seed=2**64 - 1,
        max_tokens=9,
        stop="END",
        stop_token_ids=[8],
        ignore_eos=True,
        top_logprobs=0,
        priority=-3,
        model="toy",
        request_id="mine",
        timeout=12.5,
    )
    expected = inference_pb2.GenerateRequest(
        request_id="mine",
        model="toy",
        prompt=inference_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=[3, 4, 5])),
        sampling=common_pb2.SamplingParams(
            temperature=0.5,
            top_k=7,
            top_p=0.25,
            min_p=0.125,
            repetition_penalty=1.5,
            presence_penalty=-1.0,
            frequency_penalty=2.0,
            seed=2**64 - 1,
        ),
        stop=inference_pb2.StopConditions(strings=["END"], token_ids=[8], ignore_eos=True),
        max_tokens=9,
        top_logprobs=0,
        priority=-3,
    )
    assert router.requests == [expected]


def test_options_not_given_are_left_to_the_server(router: Router, caller: Caller) -> None:
    router.scripts.append(lambda request, _: iter([last(0)]))
    caller.stream(router.address, [Message("user", "hé")], temperature=None, stop=None)
    request = router.requests[0]
    assert request.sampling == common_pb2.SamplingParams()
    assert not request.HasField("max_tokens")
    assert not request.HasField("top_logprobs")
    assert not request.HasField("resume")
    assert request.prompt.conversation.messages[0].content == "hé"
    assert len(request.request_id) == 32


def test_the_deadline_of_the_request_is_the_deadline_of_the_call(
    router: Router, caller: Caller
) -> None:
    seen: list[float] = []

    def script(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        seen.append(context.time_remaining())
        yield last(0)

    router.scripts.append(script)
    caller.stream(router.address, "hi", timeout=20.0)
    assert 15.0 < seen[0] < 21.0


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(InvalidRequest("prompt: not for this model"), id="invalid"),
        pytest.param(PromptTooLong("prompt: 9 tokens, context 8"), id="too-long"),
        pytest.param(ModelNotFound("no such model"), id="model"),
        pytest.param(Unauthenticated("who are you"), id="unauthenticated"),
        pytest.param(Stale("a newer attempt"), id="stale"),
        pytest.param(DeadlineExceeded("too late"), id="deadline"),
        pytest.param(InternalError("a defect"), id="internal"),
    ],
)
def test_a_final_error_surfaces_at_once_as_its_own_class(
    router: Router, caller: Caller, error: LengthwiseError
) -> None:
    router.scripts.append(lambda request, context: failing(context, error))
    with pytest.raises(type(error), match=str(error)) as caught:
        caller.stream(router.address, "hi")
    assert type(caught.value) is type(error)
    assert len(router.requests) == 1


def failing(context: Any, error: LengthwiseError) -> Responses:
    fail(context, error)
    yield from ()


@pytest.mark.parametrize(
    "error", [NoWorkerAvailable("none"), TransferFailed("torn")], ids=["none", "transfer"]
)
def test_an_error_that_may_pass_is_tried_again(
    router: Router, caller: Caller, error: LengthwiseError
) -> None:
    router.scripts.append(lambda request, context: failing(context, error))
    router.scripts.append(lambda request, _: iter([words(0, "a"), last(1)]))
    assert caller.stream(router.address, "hi")[0].text == "a"
    assert router.requests[0].request_id == router.requests[1].request_id


def test_an_error_that_does_not_pass_is_raised_after_all_attempts(
    router: Router, caller: Caller
) -> None:
    router.scripts.extend([lambda _, context: failing(context, NoWorkerAvailable("none"))] * 3)
    with pytest.raises(NoWorkerAvailable, match="none"):
        caller.stream(router.address, "hi", retry=Retry(attempts=3))
    assert len(router.requests) == 3


def test_an_overloaded_router_is_given_the_time_it_asks_for(router: Router, caller: Caller) -> None:
    router.scripts.append(lambda _, context: failing(context, Overloaded("full", 0.4)))
    router.scripts.append(lambda request, _: iter([last(0)]))
    started = time.monotonic()
    caller.stream(router.address, "hi")
    assert time.monotonic() - started >= 0.4


def test_a_wait_beyond_the_deadline_is_not_begun(router: Router, caller: Caller) -> None:
    router.scripts.append(lambda _, context: failing(context, Overloaded("full", 60.0)))
    started = time.monotonic()
    with pytest.raises(Overloaded) as caught:
        caller.stream(router.address, "hi", timeout=20.0)
    assert time.monotonic() - started < 15.0
    assert caught.value.retry_after_seconds == 60.0


def test_no_router_at_all_is_an_error_that_names_the_endpoint(caller: Caller) -> None:
    with pytest.raises(NoWorkerAvailable, match=r"127\.0\.0\.1:1"):
        caller.stream("127.0.0.1:1", "hi", retry=Retry(attempts=2))


def test_a_router_that_is_down_is_passed_over(router: Router, caller: Caller) -> None:
    router.scripts.append(lambda request, _: iter([words(0, "a"), last(1)]))
    assert caller.stream(["127.0.0.1:1", router.address], "hi")[0].text == "a"


@pytest.mark.slow
def test_a_request_that_takes_too_long_ends_in_time(router: Router, caller: Caller) -> None:
    def script(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        while context.is_active():
            yield inference_pb2.GenerateResponse()
            router.released.wait(0.05)

    router.scripts.append(script)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        caller.stream(router.address, "hi", timeout=0.5)
    assert time.monotonic() - started < 15.0


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        pytest.param([words(1, "b")], "sent tokens 1 to 1, expected token 0", id="gap-at-start"),
        pytest.param([words(0, "a"), words(2, "c")], "expected token 1", id="gap"),
        pytest.param([words(0, "a", "b"), words(1, "b", "c")], "expected token 2", id="overlap"),
        pytest.param([words(0, "a")], "without a finish reason", id="no-end"),
        pytest.param([], "without a finish reason", id="nothing"),
        pytest.param(
            [inference_pb2.GenerateResponse(seed=1), inference_pb2.GenerateResponse(seed=2)],
            "sent seed 2, expected seed 1",
            id="two-seeds",
        ),
        pytest.param(
            [inference_pb2.GenerateResponse(finish_reason=77)],  # type: ignore[arg-type]
            "finish reason 77",
            id="unknown-end",
        ),
    ],
)
def test_a_stream_that_contradicts_itself_is_an_error(
    router: Router,
    caller: Caller,
    responses: list[inference_pb2.GenerateResponse],
    message: str,
) -> None:
    router.scripts.append(lambda request, _: iter(responses))
    with pytest.raises(InternalError, match=message):
        caller.stream(router.address, "hi")


def test_missing_log_probabilities_are_an_error(router: Router, caller: Caller) -> None:
    router.scripts.append(lambda request, _: iter([words(0, "a"), last(1)]))
    with pytest.raises(InternalError, match="sent 0 log probabilities, expected 1"):
        caller.stream(router.address, "hi", top_logprobs=0)


def test_the_model_is_described_as_people_wrote_it(router: Router, caller: Caller) -> None:
    model = caller.model(router.address)
    assert model.name == "toy"
    assert model.eos_token_ids == (2,)
    assert model.default_sampling.temperature == 0.7
    assert model.default_sampling.top_p == 0.95


def test_unary_calls_try_again_elsewhere(routers: tuple[Router, Router], caller: Caller) -> None:
    routers[0].unary_errors.append(NoWorkerAvailable("starting"))
    assert caller.model([router.address for router in routers]).name == "toy"
    assert caller.tokenize(["127.0.0.1:1", routers[1].address], "ab") == [97, 98]


def test_a_name_that_resolves_is_an_endpoint(router: Router, caller: Caller) -> None:
    port = router.address.rpartition(":")[2]
    assert caller.tokenize(f"dns:///localhost:{port}", "ab") == [97, 98]
