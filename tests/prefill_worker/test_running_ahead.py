"""Batches that are launched before the last one has ended: nothing leaves too early, nothing is
decided too early, and the device does not wait."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from harness.block_integrity import check_cache
from harness.toy_oracle import toy_next_token
from harness.workers import prompt_of
from prefill_worker.prefill_engine import BLOCK_SIZE, SteppedPrefill

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SampledToken, SequenceChunk
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_engine.toy.runner import ToyRunner
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.types import RequestId
from lengthwise_prefill_worker.kv.pieces import PieceReady
from lengthwise_prefill_worker.messages import Computed
from lengthwise_prefill_worker.stepping import step_loop
from lengthwise_prefill_worker.stepping.step_loop import MOST_AHEAD_SECONDS, POLL_SECONDS

STEP, LAUNCH = 0.1, 0.002


def load(folder: Path, **settings: object) -> LoadedModel:
    write_toy_checkpoint(folder, num_layers=4, **settings)  # type: ignore[arg-type]
    return load_runner(folder, device="cpu", num_blocks=120, kv_memory_bytes=0)


class CheckedPrefill(SteppedPrefill):
    """Knows what KV every prompt has to have, and compares what leaves when it leaves."""

    def __init__(self, model: LoadedModel) -> None:
        policy = PrefillPolicy(chunk_tokens=48, max_batch_requests=3)
        super().__init__(model, policy, layerwise_tokens=40, piece_bytes=1)
        self.expected: dict[RequestId, torch.Tensor] = {}
        self.tokens: dict[RequestId, int] = {}
        self.left: dict[RequestId, list[tuple[int, int]]] = {}

    def ask(self, request_id: RequestId, token_ids: list[int], sent_from: int | None = 0) -> None:
        super().ask(request_id, token_ids, sent_from)
        spec, layout = self.model.spec, self.model.cache.layout
        assert isinstance(spec, ToySpec)
        blocks = range(layout.num_blocks_for(len(token_ids)))
        cache = KVCache.allocate(layout, len(blocks), torch.device("cpu"))
        chunk = SequenceChunk(token_ids=token_ids, start=0, block_ids=blocks, sampling=None)
        ToyRunner(cache, spec).run([chunk])
        self.expected[request_id] = cache.tensor[:, : len(token_ids) // BLOCK_SIZE]
        self.left[request_id] = []

    def release(self, request_id: RequestId) -> None:
        super().release(request_id)
        self.expected.pop(request_id, None)

    def send(self, pieces: Sequence[PieceReady]) -> None:
        for ready in pieces:
            if ready.request_id not in self.expected:
                continue
            piece, expected = ready.piece, self.expected[ready.request_id]
            layers = range(piece.first_layer, piece.first_layer + piece.num_layers)
            for place, block in enumerate(piece.block_ids, ready.first_block):
                self.left[ready.request_id] += [(layer, place) for layer in layers]
                for layer in layers if place < expected.shape[1] else ():
                    assert torch.equal(
                        self.model.cache.tensor[layer, block], expected[layer, place]
                    )

    def turn(self) -> None:
        self.loop.step()
        for outcome in self.reports[-1].outcomes if self.reports else ():
            assert isinstance(outcome, Computed)
            self.tokens[outcome.request_id] = outcome.token.token_id
            self.release(outcome.request_id)
        self.reports.clear()


@pytest.mark.slow
def test_what_leaves_is_computed_and_every_token_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts with common prefixes in chunks, some given up at any moment, in blocks that are given
    away again at once."""
    monkeypatch.setattr(step_loop, "POLL_SECONDS", 0.001)
    model = load(tmp_path, step_seconds=0.004, asynchronous=True)
    worker, dice = CheckedPrefill(model), random.Random(3)
    launch, ahead, last = model.runner.launch, [0], [model.runner.launch([])]

    def counted(chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None) -> object:
        ahead[0] += not last[0].is_ready
        last[0] = launch(chunks, on_layer)
        return last[0]

    monkeypatch.setattr(model.runner, "launch", counted)
    prompts: dict[RequestId, list[int]] = {}
    given_up = set[RequestId]()
    for number in range(30):
        family, length = number // 3, dice.choice([20, 70, 130])
        request_id = RequestId(f"r{number}")
        prompts[request_id] = [*prompt_of(64, seed=family), *prompt_of(length, seed=number)]
        worker.ask(request_id, prompts[request_id])
        for _ in range(dice.randrange(3)):
            worker.turn()
        if not number % 4 and (waiting := sorted(worker.expected)):
            given_up.add(dice.choice(waiting))
            worker.release(max(given_up & set(waiting)))
    for _ in range(400):
        worker.turn()
        if worker.blocks.num_free == worker.blocks.num_blocks and not worker.expected:
            break
    assert ahead[0] > 10
    assert worker.tokens.keys() | given_up == prompts.keys()
    spec, layers = model.spec, model.cache.layout.num_layers
    assert isinstance(spec, ToySpec)
    for request_id, token in worker.tokens.items():
        assert token == toy_next_token(prompts[request_id], spec)
        if request_id not in given_up:
            blocks = model.cache.layout.num_blocks_for(len(prompts[request_id]))
            assert sorted(worker.left[request_id]) == [
                (layer, block) for layer in range(layers) for block in range(blocks)
            ]
    check_cache(worker.blocks)


@dataclass
class Device:
    """A GPU in virtual time: launching takes the host LAUNCH, computing the device STEP."""

    model: LoadedModel
    announces: bool
    now: float = 0.0
    free_at: float = 0.0
    launched: list[tuple[float, float, list[int]]] = field(default_factory=list)
    """When it was launched, when it began, and the starts of its chunks."""
    while_waiting: Callable[[], None] = lambda: None

    @property
    def layout(self) -> KVLayout:
        return self.model.cache.layout

    @property
    def runs_ahead(self) -> bool:
        return True

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.while_waiting()

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> "Step":
        tokens = self.model.runner.run(chunks)
        self.now += LAUNCH
        began_at = max(self.now, self.free_at)
        self.free_at = began_at + STEP
        self.launched.append((self.now, began_at, [chunk.start for chunk in chunks]))
        layers = self.layout.num_layers
        due = [(began_at + STEP * (i + 1 if self.announces else layers) / layers, i)
               for i in range(layers)]  # fmt: skip
        assert on_layer is not None
        return Step(self, self.free_at, tokens, due, on_layer)

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()


@dataclass
class Step:
    device: Device
    ends_at: float
    sampled: list[SampledToken | None]
    due: list[tuple[float, int]]
    on_layer: Callable[[int], None]

    @property
    def is_ready(self) -> bool:
        while self.due and self.device.now >= self.due[0][0]:
            self.on_layer(self.due.pop(0)[1])
        return self.device.now >= self.ends_at

    def tokens(self) -> list[SampledToken | None]:
        self.device.now = max(self.device.now, self.ends_at)
        assert self.is_ready
        return self.sampled


def on_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch, policy: PrefillPolicy, *, announces: bool = True
) -> tuple[Device, SteppedPrefill]:
    model = load(folder)
    device = Device(model, announces)
    monkeypatch.setattr("time.sleep", device.sleep)
    return device, SteppedPrefill(model, policy, runner=device, clock=lambda: device.now)


@pytest.mark.parametrize("announces", [True, False], ids=["launched", "replayed"])
def test_a_device_does_not_wait_for_the_next_batch_and_it_is_planned_no_earlier(
    tmp_path: Path, announces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PrefillPolicy(discipline="fcfs", chunk_tokens=256)
    device, worker = on_device(tmp_path, monkeypatch, policy, announces=announces)
    for number in range(7):
        worker.ask(RequestId(f"r{number}"), prompt_of(256, seed=number))
    while len(device.launched) < 7 or worker.loop.snapshot.running_requests:
        worker.loop.step()
    # What a step takes is known once three were seen, if its layers do not tell.
    known = 0 if announces else 4
    steps = list(pairwise(device.launched))[known:]
    waited = [began - (before + STEP) for (_, before, _), (_, began, _) in steps]
    early = [before + STEP - (launched - LAUNCH) for (_, before, _), (launched, *_) in steps]
    assert max(waited) < (POLL_SECONDS if announces else LAUNCH + POLL_SECONDS)
    assert max(early) < LAUNCH + 4 * POLL_SECONDS < MOST_AHEAD_SECONDS
    reports = [report for report in worker.reports if report.gap_seconds is not None]
    assert [report.gap_seconds for report in reports[known:]] == [0.0] * (6 - known)
    busy = sum(report.busy_seconds for report in worker.reports)
    assert busy == pytest.approx(device.free_at, rel=0.03)


def test_a_short_prompt_that_arrives_during_a_batch_is_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PrefillPolicy(discipline="short_first", chunk_tokens=256)
    device, worker = on_device(tmp_path, monkeypatch, policy)
    worker.ask(RequestId("long"), prompt_of(1700))

    def arrive() -> None:
        if device.now > 0.9 * STEP:
            worker.ask(RequestId("short"), prompt_of(20, seed=5))
            device.while_waiting = lambda: None

    device.while_waiting = arrive
    outcomes = []
    for _ in range(8):
        worker.loop.step()
        outcomes += worker.reports[-1].outcomes
    assert [len(starts) for *_, starts in device.launched] == [1] * 8
    assert [starts for *_, starts in device.launched][:3] == [[0], [0], [256]]
    first = outcomes[0]
    assert isinstance(first, Computed)
    assert first.request_id == "short"
    assert first.queue_seconds + first.prefill_seconds < 1.2 * STEP


def test_what_the_batch_before_computes_for_another_prompt_leaves_once_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PrefillPolicy(discipline="fcfs", max_batch_requests=1)
    device, worker = on_device(tmp_path, monkeypatch, policy)
    left: list[tuple[float, RequestId]] = []
    monkeypatch.setattr(
        worker.loop, "_send", lambda pieces: left.extend((device.now, p.request_id) for p in pieces)
    )
    first, second = RequestId("first"), RequestId("second")
    worker.ask(first, prompt_of(192))
    worker.ask(second, [*prompt_of(192), *prompt_of(30, seed=5)])
    for _ in range(3):
        worker.loop.step()
    (launched_at, began_at, _), (second_at, _, starts) = device.launched
    assert starts == [192]
    assert launched_at < second_at - LAUNCH < began_at + STEP
    assert min(at for at, request_id in left if request_id == second) >= began_at + STEP
