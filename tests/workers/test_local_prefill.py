"""A decode worker computes prompts itself, in chunks beside the requests that decode: the same
tokens as over a prefill worker, the first of them on the stream too, and no state leaks."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from random import Random

import grpc
import pytest
from harness.waiting import eventually
from harness.workers import PlainRouter, all_free, is_refused, oracle, prompt_of, status_of

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import common_pb2

pytestmark = pytest.mark.slow


async def _blocks_return(cluster: LocalCluster) -> None:
    await eventually(lambda: all_free(cluster.prefill[0].address, cluster.decode[0].address))


@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 200, 513, 1500])
async def test_local_and_remote_prefill_say_the_same(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec, num_tokens: int
) -> None:
    prompt, number = prompt_of(num_tokens, seed=11), router.number()
    assert await router.generate(prompt, 20, number=number, local=True) == oracle(
        prompt, 20, toy_spec
    )
    report = router.local_prefills[number]
    assert report.num_cached_tokens == router.cached[number]
    assert report.queue_seconds >= 0 < report.prefill_seconds
    assert re.match(r"mixed: \d+ decode, \d+ tokens in \d+ chunks, room for", report.reason)
    assert await router.generate(prompt, 20) == oracle(prompt, 20, toy_spec)
    await _blocks_return(cluster)


async def test_prompts_are_computed_beside_requests_that_decode(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompts = [prompt_of(n, seed=n + 1) for n in (3, 40, 700, 5, 64, 129, 800, 16, 33, 2)]
    outputs = await asyncio.gather(
        *(router.generate(p, 25, local=i % 3 > 0) for i, p in enumerate(prompts))
    )
    assert outputs == [oracle(prompt, 25, toy_spec) for prompt in prompts]
    await _blocks_return(cluster)


async def test_a_local_request_for_one_token_ends_with_it(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt, number = prompt_of(100, seed=12), router.number()
    assert await router.generate(prompt, 1, number=number, local=True) == oracle(
        prompt, 1, toy_spec
    )
    assert router.ended[number].finish_reason == common_pb2.FINISH_REASON_LENGTH
    await _blocks_return(cluster)


async def test_a_first_token_may_stop_a_local_request(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt, number = prompt_of(90, seed=13), router.number()
    stop = oracle(prompt, 1, toy_spec)
    await router.reserve(number, prompt, 10, local=True, stop_token_ids=stop)
    await eventually(lambda: number in router.ended)
    assert router.ended[number].finish_reason == common_pb2.FINISH_REASON_STOP
    assert router.tokens[number] == {0: stop[0]}
    await _blocks_return(cluster)


async def test_the_first_token_of_a_local_request_has_its_log_probabilities(
    router: PlainRouter,
) -> None:
    number = router.number()
    await router.generate(prompt_of(50, seed=14), 3, number=number, local=True, top_logprobs=2)
    assert sorted(router.logprobs[number]) == [0, 1, 2]
    assert len(router.logprobs[number][0].top) == 2


async def test_a_request_goes_on_at_the_next_index_when_a_worker_was_lost(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec
) -> None:
    prompt, number = prompt_of(60, seed=15), router.number()
    expected = oracle(prompt, 20, toy_spec)
    await router.reserve(
        number, [*prompt, *expected[:8]], 12, local=True, num_prompt_tokens=len(prompt)
    )
    await eventually(lambda: number in router.ended)
    assert router.tokens[number] == {index: expected[index] for index in range(8, 20)}
    await _blocks_return(cluster)


@pytest.mark.parametrize("wait_seconds", [0.0, 0.02, 0.2, 0.5])
async def test_a_local_request_is_released_in_every_phase(
    cluster: LocalCluster, router: PlainRouter, wait_seconds: float
) -> None:
    number = router.number()
    await router.reserve(number, prompt_of(1500, seed=16), 500, local=True)
    await asyncio.sleep(wait_seconds)
    await router.release(number)
    await _blocks_return(cluster)


async def test_a_local_request_cannot_be_reserved_again(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    prompt, number = prompt_of(1200, seed=17), router.number()
    await router.reserve(number, prompt, 500, local=True)
    with pytest.raises(grpc.aio.AioRpcError, match="computes its prompt itself") as caught:
        await router.reserve(number, prompt, 500, local=True, epoch=2)
    assert is_refused(caught.value, grpc.StatusCode.ABORTED)
    await router.release(number)
    await _blocks_return(cluster)


@pytest.mark.parametrize("most", [None, 0, 1])
async def test_beside_more_requests_than_a_router_allows_a_prompt_is_left_to_a_prefill_worker(
    cluster: LocalCluster, router: PlainRouter, toy_spec: ToySpec, most: int | None
) -> None:
    earlier, number = router.number(), router.number()
    await router.reserve(earlier, prompt_of(2000, seed=19), 5, local=True)
    prompt = prompt_of(100, seed=20)
    response = await router.reserve(number, prompt, 20, local=True, most_requests=most)
    if most == 0:
        assert response.requests == 2
        first = await router.prefill(number, prompt)
        router.tokens.setdefault(number, {})[0] = first.token_id
    else:
        assert not response.HasField("requests")
    await eventually(lambda: number in router.ended)
    tokens = router.tokens[number]
    assert [tokens[index] for index in sorted(tokens)] == oracle(prompt, 20, toy_spec)
    assert (number in router.local_prefills) == (most != 0)
    await eventually(lambda: earlier in router.ended)
    await _blocks_return(cluster)


async def test_a_local_prefill_counts_as_running(
    cluster: LocalCluster, router: PlainRouter
) -> None:
    """A router watches the step counter of a worker that says that it runs something."""
    number = router.number()
    await router.reserve(number, prompt_of(2000, seed=18), 5, local=True)
    status = await status_of(cluster.decode[0].address)
    assert status.running_requests == 1
    await eventually(lambda: number in router.ended)
    await _blocks_return(cluster)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A decode worker of 24 blocks that expects short outputs once it has seen some, and launches
    steps ahead as on a GPU."""
    toy_folder = write_toy_checkpoint(
        tmp_path_factory.mktemp("ahead"),
        step_seconds=0.005,
        prefill_seconds_per_token=0.0002,
        asynchronous=True,
    )
    decode = {
        "num_blocks": 24,
        "stall_seconds": 2.0,
        "policy": {"past_future": {"window": 32, "reserve": 0.0}},
    }
    with LocalCluster(model=toy_folder, configs={"decode": decode}) as cluster:
        yield cluster


@pytest.fixture
async def tiny_router(tiny: LocalCluster) -> AsyncIterator[PlainRouter]:
    router = PlainRouter(tiny.prefill[0].address, tiny.decode[0].address)
    await router.open()
    await asyncio.gather(*(router.generate([1, 2, 3], 20, local=True) for _ in range(32)))
    yield router
    await router.close()


async def test_preempted_requests_resume_with_the_same_tokens(
    tiny: LocalCluster, tiny_router: PlainRouter, toy_spec: ToySpec
) -> None:
    """Each comes with 3 blocks and ends with 13."""
    prompts = [prompt_of(40, seed=seed) for seed in range(5)]
    outputs = await asyncio.gather(
        *(tiny_router.generate(p, 160, local=i > 1) for i, p in enumerate(prompts))
    )
    assert outputs == [oracle(prompt, 160, toy_spec) for prompt in prompts]
    assert tiny_router.preempted
    await _blocks_return(tiny)


@pytest.mark.parametrize("how", ["release", "lease", "router leaves"])
async def test_a_preempted_request_ends_while_it_waits(
    tiny: LocalCluster, tiny_router: PlainRouter, toy_spec: ToySpec, how: str
) -> None:
    prompts = [prompt_of(40, seed=seed) for seed in range(30, 34)]
    numbers = [tiny_router.number() for _ in prompts]
    for number, prompt in zip(numbers, prompts, strict=True):
        await tiny_router.reserve(
            number, prompt, 160, local=True, lease_seconds=1.0 if how == "lease" else 60.0
        )
    if how == "lease":
        await eventually(lambda: len(tiny_router.ended) - 32 == len(prompts), 10)
        assert any("lease" in tiny_router.ended[number].error for number in numbers)
    else:
        await eventually(lambda: tiny_router.preempted, 10)
    if how == "release":
        await tiny_router.release(tiny_router.preempted[0])
        rest = [number for number in numbers if number != tiny_router.preempted[0]]
        await eventually(lambda: all(number in tiny_router.ended for number in rest), 20)
        assert [len(tiny_router.tokens[number]) for number in rest] == [160] * 3
    if how == "router leaves":
        await tiny_router.leave()
    await _blocks_return(tiny)


async def test_cancels_and_preemptions_at_random_disturb_no_other_request(
    tiny: LocalCluster, tiny_router: PlainRouter, toy_spec: ToySpec
) -> None:
    """Prompts share prefixes, memory runs out, a third is cancelled in whatever phase it is."""
    random = Random(4)

    async def one(index: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.3))
        prompt = [*prompt_of(64, seed=index % 3), *prompt_of(random.randrange(60), seed=index)]
        count = random.randrange(2, 120)
        call = asyncio.ensure_future(
            tiny_router.generate(prompt, count, local=random.random() < 0.5)
        )
        if index % 3:
            assert await call == oracle(prompt, count, toy_spec)
        else:
            await asyncio.sleep(random.uniform(0, 0.8))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    await asyncio.gather(*(one(index) for index in range(45)))
    assert tiny_router.preempted
    await _blocks_return(tiny)
