"""Steps one after the other, and ahead of each other: every request gets the tokens it would get
alone, and gives every block back."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pytest

from lengthwise.v1 import common_pb2
from lengthwise_decode_worker.commands import Command, DecodeWork, Granted, Release
from lengthwise_decode_worker.launched import StepClock
from lengthwise_decode_worker.step_loop import DecodeLoop
from lengthwise_decode_worker.step_output import StepOutput
from lengthwise_engine.loading import LoadedModel, load_runner
from lengthwise_engine.runner import PendingStep, SampledToken, SequenceChunk
from lengthwise_engine.sampler import Sampling, SamplingState
from lengthwise_engine.toy.arithmetic import toy_next_token
from lengthwise_engine.toy.asynchronous import AsynchronousToyRunner
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_engine.toy.spec import ToySpec
from lengthwise_policy.decode import DecodePolicy, DecodeScheduler
from lengthwise_policy.fit import CostFit
from lengthwise_policy.future import FuturePolicy
from lengthwise_policy.prefix import PrefixCache
from lengthwise_policy.types import RequestId
from lengthwise_runtime.mailbox import Mailbox

GREEDY = Sampling(temperature=0.0)
CONTEXT_LENGTH = 256

MakeModel = Callable[..., LoadedModel]


class Interrupted(Mailbox[Command]):
    """Something happens once the loop waits for a step."""

    on_wait: Callable[[], object] | None = None

    def drain(self, timeout_seconds: float) -> list[Command]:
        if timeout_seconds and self.on_wait is not None:
            happens, self.on_wait = self.on_wait, None
            happens()
        return super().drain(timeout_seconds)


class Engine:
    """The decode loop over a toy, stepped by hand, and what it told."""

    def __init__(self, model: LoadedModel) -> None:
        assert isinstance(model.spec, ToySpec)
        self.spec = model.spec
        self.model = model
        self.mailbox = Interrupted(10_000)
        self.blocks = PrefixCache(model.cache.num_blocks)
        # It expects short outputs, so that memory runs out where they are long.
        policy = DecodePolicy(
            max_running=16, step_tokens=64, future=FuturePolicy(window=20, reserve=0.0)
        )
        self.scheduler = DecodeScheduler(policy, self.blocks, 16, random.Random(1).random)
        self.outputs: list[StepOutput] = []
        self.loop = DecodeLoop(
            runner=model.runner,
            scheduler=self.scheduler,
            blocks=self.blocks,
            salt=b"",
            mailbox=self.mailbox,
            publish=self.publish,
        )
        self.works: dict[int, DecodeWork] = {}
        self.answered_at: dict[int, float] = {}

    def publish(self, output: StepOutput) -> None:
        self.outputs.append(output)
        for outcome in output.outcomes:
            if isinstance(outcome, Granted):
                number = int(outcome.request_id.removeprefix("request-"))
                self.answered_at[number] = time.monotonic()

    def ask(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        stop: Sequence[int] = (),
    ) -> int:
        """A prompt that the worker computes itself; returns the number of its reservation."""
        number = len(self.works) + 1
        token_ids = list(prompt)
        work = self.works[number] = DecodeWork(
            request_id=RequestId(f"request-{number}"),
            router_id="router",
            reservation=number,
            token_ids=token_ids,
            hashes=[],
            sampling=SamplingState(
                sampling=sampling, token_ids=token_ids, num_prompt_tokens=len(prompt)
            ),
            stop_token_ids=frozenset(stop),
            max_tokens=max_tokens,
            num_given_tokens=len(prompt),
            deadline_at=time.monotonic() + 60,
            local=True,
        )
        self.mailbox.post(work)
        return number

    def release(self, number: int) -> None:
        self.mailbox.post(Release(request_id=self.works[number].request_id, receiving=False))

    @property
    def rests(self) -> bool:
        busy = self.scheduler.num_running + self.scheduler.num_queued + self.scheduler.num_draining
        return not busy

    def run(self, until: Callable[[], bool] | None = None) -> None:
        self.loop.step()
        for _ in range(5000):
            if until() if until else self.rests:
                return
            self.loop.step()
        raise AssertionError("it does not end")

    def tokens(self, number: int) -> list[int]:
        """What the router was told, in the order of their indices, which have no gap."""
        told: list[tuple[int, int]] = []
        for output in self.outputs:
            for rows in output.rows.values():
                for reservation, index, token_id in zip(
                    rows.reservations, rows.indices, rows.token_ids, strict=True
                ):
                    if reservation == number:
                        told.append((index, token_id))
        assert [index for index, _ in told] == list(range(len(told)))
        return [token_id for _, token_id in told]

    def reasons(self) -> dict[int, int]:
        """How each reservation ended."""
        return {
            ended.reservation: ended.finish_reason
            for output in self.outputs
            for rows in output.rows.values()
            for ended in rows.ended
        }

    def oracle(self, prompt: Sequence[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(toy_next_token(tokens, self.spec))
        return tokens[len(prompt) :]

    def nothing_is_held(self) -> bool:
        self.blocks.check_integrity()
        return self.rests and self.blocks.num_free == self.blocks.num_blocks


def prompt_of(num_tokens: int, seed: int = 0) -> list[int]:
    return [(7 * i + 13 * seed + i * i) % 250 for i in range(num_tokens)]


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
    engine = Engine(make_model(asynchronous=asynchronous, num_blocks=20, step_seconds=0.0005))
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
def test_a_stop_token_ends_a_request_at_every_position_of_a_block(
    asynchronous: bool, make_model: MakeModel
) -> None:
    engine = Engine(make_model(asynchronous=asynchronous, num_blocks=96, step_seconds=0.0005))
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
def test_cancels_at_random_disturb_nobody_else(
    asynchronous: bool, seed: int, make_model: MakeModel
) -> None:
    engine = Engine(make_model(asynchronous=asynchronous, num_blocks=24, step_seconds=0.0002))
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
    engine = Engine(make_model(asynchronous=asynchronous))
    prompt = prompt_of(CONTEXT_LENGTH - 20)
    number = engine.ask(prompt, 20)
    engine.run()
    assert engine.tokens(number) == engine.oracle(prompt, 20)
    assert engine.reasons() == {number: common_pb2.FINISH_REASON_LENGTH}


SAMPLINGS = [
    GREEDY,
    Sampling(seed=1, temperature=0.9),
    Sampling(seed=2, temperature=1.4, top_p=0.9, top_logprobs=2),
    Sampling(seed=3, presence_penalty=1.5, frequency_penalty=0.5),
    Sampling(temperature=0.0, repetition_penalty=1.3),
]


@pytest.mark.parametrize("together", [SAMPLINGS[:3], SAMPLINGS], ids=["plain", "with-penalties"])
def test_what_is_sampled_ahead_is_what_is_sampled_step_by_step(
    together: Sequence[Sampling], make_model: MakeModel
) -> None:
    answers = []
    for asynchronous in (False, True):
        engine = Engine(make_model(asynchronous=asynchronous))
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


def watched(model: LoadedModel) -> Engine:
    assert isinstance(model.spec, ToySpec)
    object.__setattr__(model, "runner", Watched(model.cache, model.spec))
    return Engine(model)


def test_the_next_step_is_launched_before_the_last_has_ended(make_model: MakeModel) -> None:
    engine = watched(make_model(asynchronous=True, step_seconds=0.01))
    number = engine.ask(prompt_of(10), 30)
    engine.run()
    runner = engine.model.runner
    assert isinstance(runner, Watched)
    assert runner.num_launches == 30, "a step that samples nothing new is not launched"
    assert runner.num_ahead >= 15  # 29 on a machine that does not stop
    assert len(engine.tokens(number)) == 30
    assert engine.outputs[-1].gap_seconds in (None, 0.0)


def test_penalties_wait_for_the_tokens_they_are_computed_from(make_model: MakeModel) -> None:
    engine = watched(make_model(asynchronous=True, step_seconds=0.005))
    engine.ask(prompt_of(10), 10, sampling=SAMPLINGS[3])
    engine.ask(prompt_of(10, 1), 20)
    engine.run()
    runner = engine.model.runner
    assert isinstance(runner, Watched)
    assert 1 <= runner.num_ahead <= 10, "only once the request with penalties had ended"


def test_overlapping_steps_count_once_in_the_cost_model(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(CostFit, "observe", lambda _, sample: seconds.append(sample.seconds))
    engine = Engine(make_model(asynchronous=True, step_seconds=0.004))
    engine.ask(prompt_of(10), 60)
    started_at = time.monotonic()
    engine.run()
    assert len(seconds) > 10
    assert sum(seconds) <= time.monotonic() - started_at
    assert median(seconds) > 0.003


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        pytest.param([0, 0, 0], [4.0, 3.0, 3.0], id="never"),
        pytest.param([0, 1, 0, 0], [4.0, None, None, 3.0], id="held up for a step"),
        pytest.param([1, 1, 0, 0], [None, None, None, 3.0], id="held up for two"),
        pytest.param([1, 1, 1, 1], [None, None, 3.0, 3.0], id="always"),
    ],
)
def test_a_step_begins_when_the_one_before_has_ended(
    late: list[int], expected: list[float | None]
) -> None:
    clock = StepClock()
    told = [
        clock.seconds(launched_at=3.0 * step - 4, read_at=3.0 * step, is_late=bool(is_late))
        for step, is_late in enumerate(late)
    ]
    assert told == expected


def test_a_step_after_a_pause_begins_with_its_launch() -> None:
    clock = StepClock()
    clock.seconds(launched_at=1.0, read_at=3.0, is_late=False)
    assert clock.seconds(launched_at=7.0, read_at=9.0, is_late=False) == 2.0


def test_a_reservation_is_answered_while_a_prompt_is_computed(make_model: MakeModel) -> None:
    engine = Engine(make_model(asynchronous=True, step_seconds=0.2))
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
    engine = Engine(make_model(asynchronous=True))

    def broken(*_: object) -> list[SampledToken | None]:
        raise RuntimeError("the device is gone")

    engine.model.runner._compute = broken  # type: ignore[attr-defined]
    engine.ask(prompt_of(10), 8)
    with pytest.raises(RuntimeError, match="the device is gone"):
        engine.run()
