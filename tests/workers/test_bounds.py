"""Workers look at no list before they have counted it, whoever sends it."""

from typing import Any

import grpc
import pytest
from harness.workers import PlainRouter, is_refused, prompt_of

from lengthwise_wire.v1 import common_pb2, decode_pb2, prefill_pb2

pytestmark = pytest.mark.slow  # two processes start

MILLION = 1_000_000

TOO_MUCH: dict[str, dict[str, Any]] = {
    "token ids": {"token_ids": [5] * MILLION},
    "stop tokens": {"stop_token_ids": [5] * MILLION},
    "biases": {"sampling": common_pb2.SamplingParams(logit_bias=dict.fromkeys(range(3000), 1.0))},
    "more biases": {
        "sampling": common_pb2.SamplingParams(logit_bias=dict.fromkeys(range(90_000), 1.0))
    },
    "a request's id": {"request_id": "x" * MILLION},
    "log probabilities": {"top_logprobs": MILLION},
}


@pytest.mark.parametrize("fields", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_request_for_too_much_is_refused(
    router: PlainRouter, fields: dict[str, Any]
) -> None:
    usual = {"token_ids": prompt_of(5), "num_prompt_tokens": 5, **fields}
    reserve = decode_pb2.ReserveRequest(
        router_id=router.router_id, reservation=router.number(), max_tokens=5, lease_seconds=5,
        **usual,
    )  # fmt: skip
    for call in (
        router.decode_stub.Reserve(reserve, timeout=10),
        router.prefill_stub.Prefill(prefill_pb2.PrefillRequest(**usual), timeout=10),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert is_refused(caught.value, grpc.StatusCode.INVALID_ARGUMENT)


async def test_routers_with_long_names_and_long_lists_to_release_are_refused(
    router: PlainRouter,
) -> None:
    stub = router.decode_stub
    many = decode_pb2.ReleaseRequest(router_id="r", reservations=range(MILLION))
    for call in (
        stub.Release(many, timeout=10),
        stub.Reserve(decode_pb2.ReserveRequest(router_id="x" * MILLION), timeout=10),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert is_refused(caught.value, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("seconds", [-1.0, 11.0, float("inf"), float("nan")])
async def test_tokens_are_not_gathered_for_no_time_or_for_ever(
    router: PlainRouter, seconds: float
) -> None:
    request = decode_pb2.TokensRequest(router_id="another", interval_seconds=seconds)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.decode_stub.Tokens(request, timeout=10).read()
    assert is_refused(caught.value, grpc.StatusCode.INVALID_ARGUMENT)
