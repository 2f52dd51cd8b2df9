"""A prompt computed in one process continues in another as if nothing had happened, and whatever
ends a request early gives every block back within a second."""

import asyncio

import grpc
import pytest
from harness.waiting import eventually
from harness.workers import PlainRouter, all_free, is_refused, oracle, prompt_of, status_of

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import common_pb2

SECOND = 1.0

pytestmark = pytest.mark.slow


async def _blocks_return(cluster: LocalCluster) -> None:
    addresses = (cluster.prefill[0].address, cluster.decode[0].address)
    await eventually(lambda: all_free(*addresses), SECOND)


@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 200, 513, 1500])
async def test_tokens_continue_the_prompt_exactly(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec, num_tokens: int
) -> None:
    prompt = prompt_of(num_tokens)
    assert await router.generate(prompt, 20) == oracle(prompt, 20, toy_spec)
    await _blocks_return(cluster)


async def test_requests_of_mixed_lengths_do_not_disturb_each_other(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompts = [prompt_of(n, seed=n) for n in (3, 40, 700, 5, 64, 129, 1100, 16, 33, 2)]
    outputs = await asyncio.gather(*(router.generate(prompt, 25) for prompt in prompts))
    assert outputs == [oracle(prompt, 25, toy_spec) for prompt in prompts]
    await _blocks_return(cluster)


async def test_one_token_needs_no_decode_worker(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt = prompt_of(100)
    response = await router.prefill(router.number(), prompt, pushed=False)
    assert response.token_id == oracle(prompt, 1, toy_spec)[0]
    assert response.prefill_seconds > 0
    await _blocks_return(cluster)


async def test_a_first_token_that_stops_commits_nothing(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt = prompt_of(600)
    stop = oracle(prompt, 1, toy_spec)
    number = router.number()
    await router.reserve(number, prompt, 10, stop_token_ids=stop)
    response = await router.prefill(number, prompt, stop_token_ids=stop)
    assert response.finish_reason == common_pb2.FINISH_REASON_STOP
    await router.release(number)
    await _blocks_return(cluster)
    assert number not in router.tokens


async def test_a_stop_token_ends_decoding(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt = prompt_of(50)
    expected = oracle(prompt, 40, toy_spec)
    position = next(i for i in range(5, 40) if expected[i] not in expected[:i])
    number = router.number()
    await router.reserve(number, prompt, 40, stop_token_ids=[expected[position]])
    await router.prefill(number, prompt, stop_token_ids=[expected[position]])
    await eventually(lambda: number in router.ended)
    assert router.ended[number].finish_reason == common_pb2.FINISH_REASON_STOP
    assert [router.tokens[number][i] for i in range(1, position + 1)] == expected[1 : position + 1]
    await _blocks_return(cluster)


@pytest.mark.parametrize("num_tokens", [100, 1500], ids=["packed", "layer by layer"])
@pytest.mark.parametrize("wait_seconds", [0.0, 0.02, 0.15], ids=["at once", "early", "late"])
async def test_a_cancelled_prefill_frees_both_sides(
    cluster: LocalCluster, router: PlainRouter, num_tokens: int, wait_seconds: float
) -> None:
    prompt, number = prompt_of(num_tokens), router.number()
    await router.reserve(number, prompt, 50)
    call = router.prefill(number, prompt)
    await asyncio.sleep(wait_seconds)
    call.cancel()
    await router.release(number)
    await _blocks_return(cluster)


async def test_a_deadline_in_the_queue_frees_the_blocks(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    blocker = asyncio.ensure_future(router.generate(prompt_of(2200), 2))
    await eventually(lambda: _is_running(cluster.prefill[0].address))
    number, prompt = router.number(), prompt_of(1200, seed=1)
    await router.reserve(number, prompt, 5, lease_seconds=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.prefill(number, prompt, timeout=0.1)
    assert is_refused(caught.value, grpc.StatusCode.DEADLINE_EXCEEDED)
    await blocker
    await eventually(lambda: number in router.ended)
    assert "lease" in router.ended[number].error
    await _blocks_return(cluster)


async def _is_running(address: str) -> bool:
    return (await status_of(address)).running_requests > 0


@pytest.mark.parametrize("generated", [1, 5])
async def test_a_release_while_decoding_frees_the_blocks(
    cluster: LocalCluster, router: PlainRouter, generated: int
) -> None:
    number, prompt = router.number(), prompt_of(100)
    await router.reserve(number, prompt, 1000)
    await router.prefill(number, prompt)
    await eventually(lambda: len(router.tokens.get(number, {})) >= generated)
    await router.release(number)
    await _blocks_return(cluster)


async def test_a_router_that_leaves_gives_everything_back(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    for num_tokens in (50, 900):
        number, prompt = router.number(), prompt_of(num_tokens)
        await router.reserve(number, prompt, 900)
        await router.prefill(number, prompt)
    await router.reserve(router.number(), prompt_of(20), 20)
    await router.leave()
    await _blocks_return(cluster)


async def test_a_second_stream_of_a_router_ends_the_first(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    await router.reserve(router.number(), prompt_of(20), 20)
    second = PlainRouter(cluster.prefill[0].address, cluster.decode[0].address)
    second.router_id = router.router_id
    second.number()  # which its first stream has had
    await second.open()
    await _blocks_return(cluster)
    assert await second.generate(prompt_of(30), 5)
    await second.close()


async def test_a_reservation_without_a_stream_is_refused(cluster: LocalCluster) -> None:
    router = PlainRouter(cluster.prefill[0].address, cluster.decode[0].address)
    with pytest.raises(grpc.aio.AioRpcError, match="no Tokens stream") as caught:
        await router.reserve(1, prompt_of(5), 5)
    assert is_refused(caught.value, grpc.StatusCode.UNAVAILABLE)
    await router.close()


async def test_reservations_wait_for_blocks_in_turn(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    """The cache holds 256 blocks: three requests of 100 do not fit at once."""
    prompts = [prompt_of(1590, seed=seed) for seed in range(3)]
    outputs = await asyncio.gather(*(router.generate(prompt, 10) for prompt in prompts))
    assert outputs == [oracle(prompt, 10, toy_spec) for prompt in prompts]
    await _blocks_return(cluster)


async def test_a_reservation_that_can_never_fit_is_refused_at_once(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.reserve(router.number(), prompt_of(4090), 7)
    assert is_refused(caught.value, grpc.StatusCode.INVALID_ARGUMENT)
    await _blocks_return(cluster)


async def test_a_newer_epoch_refuses_what_an_older_attempt_sends(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt, number = prompt_of(1200), router.number()
    await router.reserve(number, prompt, 10, epoch=1)
    old = router.prefill(number, prompt, epoch=1)
    await eventually(lambda: _is_running(cluster.prefill[0].address))
    await router.reserve(number, prompt, 10, epoch=2)
    await old
    await asyncio.sleep(0.1)
    assert number not in router.tokens, "an old attempt's commit was accepted"
    await router.prefill(number, prompt, epoch=2)
    await eventually(lambda: number in router.ended)
    expected = oracle(prompt, 10, toy_spec)
    assert [router.tokens[number][i] for i in range(1, 10)] == expected[1:]
    await _blocks_return(cluster)


async def test_a_decoding_reservation_cannot_be_reserved_again(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    prompt, number = prompt_of(20), router.number()
    await router.reserve(number, prompt, 500)
    await router.prefill(number, prompt)
    await eventually(lambda: number in router.tokens)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.reserve(number, prompt, 500, epoch=2)
    assert is_refused(caught.value, grpc.StatusCode.ABORTED)
    await router.release(number)
    await _blocks_return(cluster)
