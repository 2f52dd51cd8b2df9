"""After known traffic every process's metrics say just that."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.clusters import nothing_is_held
from harness.samples import Series, samples_of
from harness.waiting import eventually
from harness.workers import status_of

import lengthwise
from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import read_toy_spec
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_local import LocalCluster

pytestmark = pytest.mark.slow

STEP_SECONDS, SECONDS_PER_TOKEN = 0.005, 0.0001  # at least, as the toy model is set
SHORT, LONG, MAX_TOKENS = 100, 1000, 11
NUM_SHORT, NUM_LONG = 3, 2


@pytest.fixture(scope="module")
def fresh(toy_folder: Path) -> Iterator[LocalCluster]:
    """It has served nothing when this file's first test begins."""
    router = {"local_prefill": False}
    with LocalCluster(model=toy_folder, configs={"router": router}) as cluster:
        yield cluster


async def test_every_process_counts_what_happened(fresh: LocalCluster, toy_folder: Path) -> None:
    began_at = time.monotonic()
    async with lengthwise.AsyncClient(fresh.endpoints) as client:
        prompts = [[7 + n] * SHORT for n in range(NUM_SHORT)]
        prompts += [[70 + n] * LONG for n in range(NUM_LONG)]
        for prompt in prompts:
            await client.generate(prompt, max_tokens=MAX_TOKENS, temperature=0, ignore_eos=True)
        with pytest.raises(lengthwise.PromptTooLong):
            await client.generate([1] * 5000)
    await eventually(lambda: nothing_is_held(fresh))
    wall = time.monotonic() - began_at
    router = await asyncio.to_thread(samples_of, fresh.routers[0].metrics_address)
    prefill = await asyncio.to_thread(samples_of, fresh.prefill[0].metrics_address)
    decode = await asyncio.to_thread(samples_of, fresh.decode[0].metrics_address)

    def value(samples: dict[Series, float], name: str, **labels: str) -> float:
        if samples is router:
            labels["model"] = toy_folder.name
        return samples[(f"lengthwise_{name}", frozenset(labels.items()))]

    served, total = NUM_SHORT + NUM_LONG, NUM_SHORT * SHORT + NUM_LONG * LONG
    assert value(router, "requests_total", code="OK") == served
    assert value(router, "requests_total", code="INVALID_ARGUMENT") == 1
    assert value(router, "time_to_first_token_seconds_count", length_class="short") == NUM_SHORT
    assert value(router, "time_to_first_token_seconds_count", length_class="long") == NUM_LONG
    assert value(router, "prompt_tokens_sum") == total
    assert value(router, "prompt_tokens_bucket", le="128.0") == NUM_SHORT
    assert value(router, "output_tokens_sum") == served * MAX_TOKENS
    assert value(router, "output_tokens_bucket", le="8.0") == 0
    assert value(router, "output_tokens_bucket", le="16.0") == served
    assert value(router, "requests_in_flight") == 0
    for name in ("queue_seconds_count", "prefill_seconds_count"):
        assert value(prefill, name, role="prefill", length_class="short") == NUM_SHORT
        assert value(prefill, name, role="prefill", length_class="long") == NUM_LONG
    assert value(prefill, "residual_tokens_sum", role="prefill") == total
    computed = {"short": NUM_SHORT * SHORT, "long": NUM_LONG * LONG}
    for length, num_tokens in computed.items():
        labels = {"role": "prefill", "length_class": length}
        assert value(router, "arrived_tokens_total", length_class=length) == num_tokens
        assert value(prefill, "prefill_tokens_total", **labels) == num_tokens
        at_least = num_tokens * SECONDS_PER_TOKEN
        assert at_least < value(prefill, "prefill_busy_seconds_total", **labels) < wall
        assert value(prefill, "queued_tokens", **labels) == 0
    for samples, role, least in (
        (prefill, "prefill", total * SECONDS_PER_TOKEN),
        (decode, "decode", served * (MAX_TOKENS - 1) * STEP_SECONDS),
    ):
        assert least < value(samples, "busy_seconds_total", role=role) < wall
        assert value(samples, "running_requests", role=role) == 0
        assert value(samples, "kv_block_tokens", role=role) == 16
        assert value(samples, "short_tokens", role=role) == 256
    assert value(decode, "generated_tokens_total", role="decode") == served * (MAX_TOKENS - 1)
    assert value(decode, "queued_requests", role="decode", length_class="") == 0
    assert value(decode, "kv_blocks_predicted", role="decode") == 0
    assert value(decode, "context_tokens", role="decode") == 0
    moved = _kv_bytes(toy_folder)
    for samples, role, process in (
        (prefill, "prefill", fresh.prefill[0]),
        (decode, "decode", fresh.decode[0]),
    ):
        assert value(samples, "kv_transfer_bytes_total", role=role) == moved
        assert value(samples, "kv_transfer_seconds_count", role=role) == served
        assert value(samples, "kv_blocks", role=role, state="used") == 0
        status = await status_of(process.address)
        assert value(samples, "kv_blocks", role=role, state="free") == status.blocks_total


async def test_what_is_asked_again_is_counted_as_cached(
    fresh: LocalCluster, toy_folder: Path
) -> None:
    def cached_tokens() -> list[float]:
        labels = [frozenset({("role", role)}) for role in ("prefill", "decode")]
        workers = zip(fresh.workers, labels, strict=True)
        name = "lengthwise_prefix_cached_tokens_total"
        counted = [samples_of(worker.metrics_address)[name, label] for worker, label in workers]
        router = samples_of(fresh.routers[0].metrics_address)
        totals = ("lengthwise_cached_prompt_tokens_total", "lengthwise_residual_ratio_count")
        model = frozenset({("model", toy_folder.name)})
        return [*counted, *(router[name, model] for name in totals)]

    before = await asyncio.to_thread(cached_tokens)
    prompt = [5] * LONG
    async with lengthwise.AsyncClient(fresh.endpoints) as client:
        for _ in range(2):
            await client.generate(prompt, max_tokens=MAX_TOKENS, temperature=0, ignore_eos=True)
    await eventually(lambda: nothing_is_held(fresh))
    cached = (LONG - 1) // 16 * 16  # whole blocks, and at least one token is computed
    after = await asyncio.to_thread(cached_tokens)
    counted = [new - old for new, old in zip(after, before, strict=True)]
    assert counted == [cached, cached, cached, 2]


def _kv_bytes(toy_folder: Path) -> int:
    spec = read_toy_spec(ConfigJson.read(toy_folder / "config.json"))
    layout: KVLayout = KVLayout.of(spec, block_size=16, dtype="float32")
    blocks = NUM_SHORT * layout.num_blocks_for(SHORT) + NUM_LONG * layout.num_blocks_for(LONG)
    return blocks * layout.num_layers * layout.block_bytes
