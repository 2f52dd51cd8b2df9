"""The prefill engine's loop with the toy model: only what no prefix covers is computed, only what
the decode worker lacks is pushed, and what reaches the event loop of it."""

from pathlib import Path

import pytest
from harness.toy_oracle import toy_next_token
from prefill_worker.prefill_engine import BLOCK_SIZE, SteppedPrefill

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_policy.kv.prefix_cache import block_hashes, short_hash
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.types import RequestId

A, B = RequestId("a"), RequestId("b")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder: Path = write_toy_checkpoint(tmp_path_factory.mktemp("toy"))
    return load_runner(folder, device="cpu", num_blocks=256, kv_memory_bytes=1 << 20)


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    return [(7 * i + 13 * seed + i * i) % 250 for i in range(num_tokens)]


def next_token(token_ids: list[int], model: LoadedModel) -> int:
    assert isinstance(model.spec, ToySpec)
    return toy_next_token(token_ids, model.spec)


def test_a_second_turn_computes_only_what_is_new_and_is_right(model: LoadedModel) -> None:
    worker = SteppedPrefill(model, PrefillPolicy())
    first = worker.compute(A, prompt(100))
    assert (first.num_cached_tokens, first.length) == (0, "short")
    second = worker.compute(B, prompt(150))
    assert second.num_cached_tokens == 96
    assert second.token.token_id == next_token(prompt(150), model)
    batch = worker.reports[-2].batch
    assert batch is not None
    assert (batch.num_tokens, second.reason) == (54, batch.reason)
    assert worker.loop.snapshot.prompt_tokens_total == 154


@pytest.mark.parametrize("layerwise_tokens", [1, 512], ids=["layer by layer", "packed"])
@pytest.mark.parametrize(
    ("cached", "sent_from"),
    [
        pytest.param(0, 0, id="no worker has anything"),
        pytest.param(96, 0, id="only this worker has the prefix"),
        pytest.param(0, 96, id="only the decode worker has the prefix"),
        pytest.param(96, 96, id="both have it"),
        pytest.param(96, 48, id="the decode worker has less"),
        pytest.param(48, 144, id="the decode worker has more"),
    ],
)
def test_every_block_that_the_decode_worker_lacks_leaves_once(
    model: LoadedModel, cached: int, sent_from: int, layerwise_tokens: int
) -> None:
    worker = SteppedPrefill(
        model, PrefillPolicy(chunk_tokens=32), layerwise_tokens=layerwise_tokens
    )
    if cached:
        worker.compute(A, prompt(cached))
    done = worker.compute(B, prompt(150), sent_from)
    assert done.num_cached_tokens == cached
    layers = range(model.cache.layout.num_layers)
    expected = {(layer, block) for layer in layers for block in range(sent_from // 16, 10)}
    sent = worker.sent_blocks()
    assert len(sent) == len(expected)
    assert set(sent) == expected


def test_nothing_leaves_where_one_token_is_all(model: LoadedModel) -> None:
    worker = SteppedPrefill(model, PrefillPolicy())
    worker.compute(A, prompt(100), sent_from=None)
    worker.compute(B, prompt(150), sent_from=None)
    assert worker.sent == []


def test_cached_blocks_leave_first_in_pieces_that_are_not_too_large(model: LoadedModel) -> None:
    layout = model.cache.layout
    block_bytes = layout.num_layers * layout.block_bytes
    worker = SteppedPrefill(model, PrefillPolicy(), piece_bytes=2 * block_bytes + 1)
    worker.compute(A, prompt(80))
    worker.compute(B, prompt(100))
    assert [(p.first_block, len(p.piece.block_ids)) for p in worker.sent] == [
        (0, 2),
        (2, 2),
        (4, 1),
        (5, 2),
    ]


def test_whether_layers_leave_one_by_one_is_decided_by_what_is_computed(
    model: LoadedModel,
) -> None:
    worker = SteppedPrefill(model, PrefillPolicy(), layerwise_tokens=64, piece_bytes=1)
    worker.compute(A, prompt(96))
    num_layers = model.cache.layout.num_layers
    assert [p.piece.num_layers for p in worker.sent] == [1] * num_layers
    worker.compute(B, prompt(128))  # 32 tokens, after 6 cached blocks in pieces of one
    assert [p.piece.num_layers for p in worker.sent] == [num_layers] * 7


def test_the_event_loop_is_notified_of_what_is_cached(model: LoadedModel) -> None:
    worker = SteppedPrefill(model, PrefillPolicy())
    worker.compute(A, prompt(50))
    added = [r.block_events.added for r in worker.reports if r.block_events is not None]
    hashes = block_hashes(prompt(50), BLOCK_SIZE, b"")
    assert [set(each) for each in added] == [{short_hash(each) for each in hashes}]
    assert worker.loop.snapshot.blocks_cached == 3
    assert worker.loop.snapshot.blocks_free == model.cache.num_blocks


def test_the_cost_of_steps_is_fitted_from_those_that_ran(model: LoadedModel) -> None:
    worker = SteppedPrefill(model, PrefillPolicy())
    for number in range(12):
        worker.compute(RequestId(f"r{number}"), prompt(20 + number, seed=number), None)
    assert worker.loop.snapshot.cost is None
    assert worker.loop.snapshot.cost_samples == 12
    assert worker.loop.snapshot.short_tokens == 256
