"""A decode worker keeps the KV of finished turns: the next turn says so at its reservation, gets
only what is missing, and speaks as if everything had been sent."""

import asyncio
import urllib.request
from contextlib import suppress

import grpc
import pytest
from harness.waiting import eventually
from harness.workers import PlainRouter, all_free, oracle, prompt_of, status_of
from prometheus_client.parser import text_string_to_metric_families

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster
from lengthwise_policy.kv.prefix_cache import block_hashes, short_hash
from lengthwise_wire.v1 import decode_pb2, worker_pb2

pytestmark = pytest.mark.slow

BLOCK_SIZE = 16


def _counted(cluster: LocalCluster, name: str) -> float:
    """Sum of a metric of the decode worker over its labels."""
    address = cluster.decode[0].metrics_address
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


async def _block_bytes(cluster: LocalCluster) -> int:
    status = await status_of(cluster.decode[0].address)
    return status.kv_bytes_per_token * status.block_size


async def _settled(cluster: LocalCluster) -> None:
    await eventually(lambda: all_free(cluster.prefill[0].address, cluster.decode[0].address))


async def test_a_second_turn_moves_only_what_the_first_has_not_left(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    first = prompt_of(300, seed=21)
    output = await router.generate(first, 40)
    second = [*first, *output, *prompt_of(50, seed=22)]
    await _settled(cluster)
    before = _counted(cluster, "lengthwise_kv_transfer_bytes_total")
    number = router.number()
    assert await router.generate(second, 30, number=number) == oracle(second, 30, toy_spec)
    # 300 + 40 tokens without the last, whose KV was never computed.
    assert router.cached[number] == 339 // BLOCK_SIZE * BLOCK_SIZE
    moved = _counted(cluster, "lengthwise_kv_transfer_bytes_total") - before
    missing = -(-len(second) // BLOCK_SIZE) - router.cached[number] // BLOCK_SIZE
    assert moved == missing * await _block_bytes(cluster)
    await _settled(cluster)


@pytest.mark.parametrize("num_tokens", [16, 17, 320], ids=["one block", "and a token", "whole"])
async def test_the_last_token_of_a_prompt_is_always_computed(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec, num_tokens: int
) -> None:
    prompt = prompt_of(num_tokens, seed=31)
    for _ in range(2):
        number = router.number()
        assert await router.generate(prompt, 10, number=number) == oracle(prompt, 10, toy_spec)
    assert router.cached[number] == (num_tokens - 1) // BLOCK_SIZE * BLOCK_SIZE


async def test_requests_share_a_prefix_while_they_run(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    """Twelve of 1,000 common tokens would need 756 blocks; there are 256."""
    common = prompt_of(1000, seed=41)
    await router.generate(common, 2)
    prompts = [[*common, *prompt_of(20 + i, seed=50 + i)] for i in range(12)]
    outputs = await asyncio.gather(
        *(router.generate(prompt, 60, local=bool(i % 2)) for i, prompt in enumerate(prompts))
    )
    assert outputs == [oracle(prompt, 60, toy_spec) for prompt in prompts]
    assert list(router.cached.values())[1:] == [992] * 12
    await _settled(cluster)


async def test_a_transfer_that_is_cut_leaves_shared_blocks_as_they_were(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    common = prompt_of(480, seed=61)
    await router.generate(common, 2)
    prompt = [*common, *prompt_of(900, seed=62)]
    sharer = asyncio.ensure_future(router.generate([*common, 1, 2, 3], 150))
    for wait_seconds in (0.0, 0.05, 0.2):
        number = router.number()
        await router.reserve(number, prompt, 20)
        assert router.cached[number] == 480
        call = router.prefill(number, prompt)
        await asyncio.sleep(wait_seconds)
        call.cancel()
        await router.release(number)
    assert await sharer == oracle([*common, 1, 2, 3], 150, toy_spec)
    assert await router.generate(prompt, 20) == oracle(prompt, 20, toy_spec)
    await _settled(cluster)


async def test_a_newer_epoch_misses_the_same_blocks(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    common = prompt_of(320, seed=71)
    await router.generate(common, 2)
    prompt, number = [*common, *prompt_of(700, seed=72)], router.number()
    assert (await router.reserve(number, prompt, 10, epoch=1)).num_cached_tokens == 320
    old = router.prefill(number, prompt, epoch=1)
    await asyncio.sleep(0.03)
    assert (await router.reserve(number, prompt, 10, epoch=2)).num_cached_tokens == 320
    await old
    await router.prefill(number, prompt, epoch=2)
    await eventually(lambda: number in router.ended)
    expected = oracle(prompt, 10, toy_spec)
    assert [router.tokens[number][i] for i in range(1, 10)] == expected[1:]
    await _settled(cluster)


async def test_a_piece_that_names_a_shared_block_is_refused(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt = prompt_of(200, seed=81)
    await router.generate(prompt, 5)
    number = router.number()
    await router.reserve(number, prompt, 5)
    assert router.cached[number] == 192
    router.cached[number] = 0  # as a prefill worker that pushes everything all the same
    with suppress(grpc.aio.AioRpcError):  # a first token may be faster than the refusal
        await router.prefill(number, prompt)
    await eventually(lambda: number in router.ended)
    assert "which the prompt misses here" in router.ended[number].error
    assert await router.generate(prompt, 5) == oracle(prompt, 5, toy_spec)
    await _settled(cluster)


async def test_the_status_reports_which_blocks_are_held(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt = prompt_of(100, seed=91)
    output = await router.generate(prompt, 30, local=True)
    await _settled(cluster)
    status: worker_pb2.WorkerStatus = await status_of(cluster.decode[0].address)
    salt = status.model_fingerprint.encode()
    hashes = block_hashes([*prompt, *output][:-1], BLOCK_SIZE, salt)
    assert status.block_events.reset
    assert {short_hash(each) for each in hashes} <= set(status.block_events.added)
    assert status.blocks_cached >= len(hashes)
    assert status.blocks_predicted == status.context_tokens == 0


async def test_a_reservation_says_why_it_was_granted(router: PlainRouter) -> None:
    number = router.number()
    response: decode_pb2.ReserveResponse = await router.reserve(number, prompt_of(20), 5)
    assert response.reason.startswith("nothing runs: ")
    await router.release(number)
