"""Steps one after the other, and ahead of each other: every request gets the tokens it would get
alone, and gives every block back."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pytest
from decode_worker.decode_engine import GREEDY, SteppedEngine
from harness.toy_oracle import toy_answer
from harness.workers import prompt_of

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import PendingStep, SampledToken, SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.toy.asynchronous import AsynchronousToyRunner
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_policy.cost.fit import CostFit
from lengthwise_wire.v1 import common_pb2

CONTEXT_LENGTH = 256

MakeModel = Callable[..., LoadedModel]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(*, asynchronous: bool, num_blocks: int = 64, step_seconds: float = 0.0) -> LoadedModel:
        folder = write_toy_checkpoint(
            tmp_path / str(asynchronous),
            num_layers=2,
            context_length=CONTEXT_LENGTH,
            asynchronous=asynchronous,
            step_seconds=step_seconds,
        )
        return load_runner(folder, device="cpu", num_blocks=num_blocks, kv_memory_bytes=0)

    return make


either = pytest.mark.parametrize("asynchronous", [False, True], ids=["step-by-step", "ahead"])


@either
def test_memory_runs_out_and_every_token_is_right(
    asynchronous: bool, make_model: MakeModel
) -> None:
    engine = SteppedEngine(
        make_model(asynchronous=asynchronous, num_blocks=20, step_seconds=0.0005)
    )
    for _ in range(20):  # outputs used to be short
        engine.ask([1], 2)
    engine.run()
    asked = {
        engine.ask(prompt_of(length, seed=length), count): (length, count)
        for length, count in [(3, 90), (40, 70), (16, 60), (17, 90), (90, 64), (1, 80), (64, 33)]
    }
    engine.run()
    for number, (length, count) in asked.items():
        assert engine.tokens(number) == engine.oracle(prompt_of(length, seed=length), count)
    assert sum(output.preemptions for output in engine.outputs) > 2
    assert engine.nothing_is_held()


@either
def test_biases_and_min_tokens_survive_preemption(
    asynchronous: bool, make_model: MakeModel
) -> None:
    """Positions count the request's tokens, not those since it was computed again."""
    engine = SteppedEngine(make_model(asynchronous=asynchronous, num_blocks=20))
    for _ in range(20):  # outputs used to be short
        engine.ask([1], 2)
    engine.run()
    stops, bias = frozenset(range(33, 40)), {65: 3.0, 70: -100.0, 90: 1.0}
    expected: dict[int, list[int]] = {}
    for length, least in ((3, 80), (40, 70), (16, 40), (17, 85), (90, 64), (1, 80), (64, 20)):
        prompt = prompt_of(length, seed=length)
        sampling = SamplingParameters(
            temperature=0.0, min_tokens=least, logit_bias=bias, stop_token_ids=stops
        )
        number = engine.ask(prompt, 90, sampling=sampling, stop=sorted(stops))
        assert isinstance(engine.model.spec, ToySpec)
        expected[number] = toy_answer(
            prompt, 90, engine.model.spec, min_tokens=least, logit_bias=bias, stops=stops
        )
        assert len(expected[number]) > least
    engine.run()
    for number, answer in expected.items():
        assert engine.tokens(number) == answer
    assert sum(output.preemptions for output in engine.outputs) > 0
    assert engine.nothing_is_held()


@either
def test_a_stop_token_ends_a_request_at_every_position_of_a_block(
    asynchronous: bool, make_model: MakeModel
) -> None:
    engine = SteppedEngine(
        make_model(asynchronous=asynchronous, num_blocks=96, step_seconds=0.0005)
    )
    expected: dict[int, list[int]] = {}
    for length in range(1, 34):
        prompt = prompt_of(length, seed=length)
        answer = engine.oracle(prompt, 9)
        place = next(i for i in range(length % 4, 9) if answer[i] not in answer[:i])
        number = engine.ask(prompt, 60, stop=[answer[place]])
        expected[number] = answer[: place + 1]
    engine.run()
    for number, tokens in expected.items():
        assert engine.tokens(number) == tokens
    assert set(engine.reasons().values()) == {common_pb2.FINISH_REASON_STOP}
    assert engine.nothing_is_held()


@either
@pytest.mark.parametrize("seed", range(3))
def test_cancels_at_random_disturb_no_other_request(
    asynchronous: bool, seed: int, make_model: MakeModel
) -> None:
    engine = SteppedEngine(
        make_model(asynchronous=asynchronous, num_blocks=24, step_seconds=0.0002)
    )
    rng = random.Random(seed)
    asked: dict[int, tuple[list[int], int]] = {}
    released: set[int] = set()
    for _ in range(40):
        # Half of the prompts begin alike and share blocks.
        prompt = prompt_of(rng.randint(1, 60), seed=rng.choice([0, rng.randrange(99)]))
        count = rng.randint(1, 60)
        asked[engine.ask(prompt, count)] = (prompt, count)
        for _ in range(rng.randrange(6)):
            engine.loop.step()
        if rng.random() < 0.4:
            number = rng.choice(list(asked))
            engine.release(number)
            released.add(number)
    engine.run()
    for number, (prompt, count) in asked.items():
        answer = engine.oracle(prompt, count)
        tokens = engine.tokens(number)
        assert tokens == answer[: len(tokens)]
        assert len(tokens) == count or number in released
    assert engine.nothing_is_held()


@either
def test_a_request_runs_to_the_end_of_the_context_and_no_further(
    asynchronous: bool, make_model: MakeModel
) -> None:
    engine = SteppedEngine(make_model(asynchronous=asynchronous))
    prompt = prompt_of(CONTEXT_LENGTH - 20)
    number = engine.ask(prompt, 20)
    engine.run()
    assert engine.tokens(number) == engine.oracle(prompt, 20)
    assert engine.reasons() == {number: common_pb2.FINISH_REASON_LENGTH}


SAMPLINGS = [
    GREEDY,
    SamplingParameters(seed=1, temperature=0.9),
    SamplingParameters(seed=2, temperature=1.4, top_p=0.9, top_logprobs=2),
    SamplingParameters(
        seed=4,
        logit_bias={66: 3.0, 70: -100.0},
        min_tokens=12,
        stop_token_ids=frozenset(range(33, 64)),
    ),
    SamplingParameters(seed=3, presence_penalty=1.5, frequency_penalty=0.5),
    SamplingParameters(temperature=0.0, repetition_penalty=1.3),
]


@pytest.mark.parametrize("together", [SAMPLINGS[:4], SAMPLINGS], ids=["plain", "with-penalties"])
def test_what_is_sampled_ahead_is_what_is_sampled_step_by_step(
    together: Sequence[SamplingParameters], make_model: MakeModel
) -> None:
    answers = []
    for asynchronous in (False, True):
        engine = SteppedEngine(make_model(asynchronous=asynchronous))
        numbers = [
            engine.ask(prompt_of(10, seed), 20 + 5 * seed, sampling=sampling)
            for seed, sampling in enumerate(together)
        ]
        engine.run()
        logprobs = [
            token
            for output in engine.outputs
            for rows in output.rows.values()
            for _, token in rows.logprobs
        ]
        answers.append(([engine.tokens(number) for number in numbers], logprobs))
        assert engine.nothing_is_held()
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_rows_of_a_real_model_follow_tokens_that_the_host_does_not_know(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned as on a GPU; each step has ended when it was launched, but is not looked at."""
    folder = make_checkpoint("qwen3")
    answers = []
    for runs_ahead in (False, True):
        monkeypatch.setattr(TorchRunner, "runs_ahead", runs_ahead)
        model = load_runner(folder, device="cpu", num_blocks=64, kv_memory_bytes=0)
        engine = SteppedEngine(model)
        numbers = [
            engine.ask(prompt_of(5 + 20 * seed, seed), 15 + 5 * seed, sampling=sampling)
            for seed, sampling in enumerate(SAMPLINGS[:3])
        ]
        engine.run()
        answers.append([engine.tokens(number) for number in numbers])
        assert engine.nothing_is_held()
    assert answers[0] == answers[1]
    assert [len(tokens) for tokens in answers[0]] == [15, 20, 25]


class Watched(AsynchronousToyRunner):
    """Counts the launches that came before the step before had ended."""

    pending: PendingStep | None = None
    num_launches = num_ahead = 0

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        self.num_launches += 1
        self.num_ahead += self.pending is not None and not self.pending.is_ready
        self.pending = super().launch(chunks, on_layer)
        return self.pending


def watched(model: LoadedModel) -> SteppedEngine:
    assert isinstance(model.spec, ToySpec)
    object.__setattr__(model, "runner", Watched(model.cache, model.spec))
    return SteppedEngine(model)


@pytest.mark.parametrize("sampling", [SAMPLINGS[0], SAMPLINGS[4]], ids=["plain", "penalised"])
def test_the_next_step_is_launched_before_the_last_has_ended(
    sampling: SamplingParameters, make_model: MakeModel
) -> None:
    engine = watched(make_model(asynchronous=True, step_seconds=0.01))
    number = engine.ask(prompt_of(10), 30, sampling=sampling)
    engine.run()
    runner = engine.model.runner
    assert isinstance(runner, Watched)
    assert runner.num_launches == 30, "a step that samples nothing new is not launched"
    assert runner.num_ahead >= 15  # 29 on a machine that does not stop
    assert len(engine.tokens(number)) == 30
    assert engine.outputs[-1].gap_seconds in (None, 0.0)


def test_overlapping_steps_count_once_in_the_cost_model(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(CostFit, "observe", lambda _, sample: seconds.append(sample.seconds))
    engine = SteppedEngine(make_model(asynchronous=True, step_seconds=0.004))
    engine.ask(prompt_of(10), 60)
    started_at = time.monotonic()
    engine.run()
    assert len(seconds) > 10
    assert sum(seconds) <= time.monotonic() - started_at
    assert median(seconds) > 0.003


@pytest.mark.slow
def test_a_reservation_is_answered_while_a_prompt_is_computed(make_model: MakeModel) -> None:
    engine = SteppedEngine(make_model(asynchronous=True, step_seconds=0.2))
    engine.ask(prompt_of(120), 2)
    engine.loop.step()  # launches the first of its chunks
    asked_at: list[float] = []

    def ask() -> None:
        asked_at.append(time.monotonic())
        engine.ask(prompt_of(5), 2)

    engine.mailbox.on_wait = ask
    engine.loop.step()
    assert engine.answered_at[2] - asked_at[0] < 0.1, "the step takes twice as long"
    engine.run()
    assert engine.nothing_is_held()


def test_a_closed_loop_leaves_nothing_that_writes_to_the_cache(make_model: MakeModel) -> None:
    engine = watched(make_model(asynchronous=True, step_seconds=0.02))
    number = engine.ask(prompt_of(10), 8)
    engine.run(until=lambda: len(engine.tokens(number)) == 2)
    runner = engine.model.runner
    assert isinstance(runner, Watched)
    assert runner.pending is not None
    assert not runner.pending.is_ready
    engine.loop.close()
    assert runner.pending.is_ready


def test_a_step_that_breaks_ends_the_loop(make_model: MakeModel) -> None:
    engine = SteppedEngine(make_model(asynchronous=True))

    def broken(*_: object) -> list[SampledToken | None]:
        raise RuntimeError("the device is gone")

    engine.model.runner._compute = broken  # type: ignore[attr-defined]
    engine.ask(prompt_of(10), 8)
    with pytest.raises(RuntimeError, match="the device is gone"):
        engine.run()
