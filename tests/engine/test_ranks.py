"""The processes of a model's ranks: they compute what one process does, and one that is lost ends
the rest in bounded time."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from harness.waiting import until
from harness.workers import fork_children, running

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_engine.errors import RankError
from lengthwise_engine.forks import server as servers
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken
from lengthwise_engine.tensor_parallel import watch as watch_module
from lengthwise_engine.tensor_parallel.runner import WatchedStep
from lengthwise_engine.tensor_parallel.watch import RankWatch
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

Generate = Callable[..., list[list[SampledToken]]]
STALL_SECONDS = 3.0  # a busy machine may well keep a rank waiting for one
CHUNK = SequenceChunk(token_ids=[1, 2, 3], start=0, block_ids=[7], sampling=None)

PARENT = """
import sys, time
from pathlib import Path
from lengthwise_engine.loaded_model import load_runner

loaded = load_runner(
    Path(sys.argv[1]), device="cpu", num_blocks=8, kv_memory_bytes=0, tensor_parallel_size=2
)
print("ready", flush=True)
time.sleep(60)
"""


def load(
    folder: Path, size: int, stall_seconds: float = 10.0, *, expert_parallel: bool = False
) -> LoadedModel:
    return load_runner(
        folder,
        device="cpu",
        num_blocks=60,
        kv_memory_bytes=0,
        tensor_parallel_size=size,
        expert_parallel=expert_parallel,
        stall_seconds=stall_seconds,
    )


def children() -> list[psutil.Process]:
    return running("lengthwise_engine.tensor_parallel.rank_main")


def is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_own", None)
    fork_children()


@pytest.fixture
def two_ranks(make_checkpoint: Callable[..., Path]) -> Iterator[LoadedModel]:
    loaded = load(make_checkpoint("llama"), 2, STALL_SECONDS)
    yield loaded
    loaded.close()
    assert not children()


@pytest.mark.slow
def test_processes_say_what_one_does_and_their_caches_are_slices_of_its(
    make_checkpoint: Callable[..., Path], generate: Generate
) -> None:
    folder = make_checkpoint("qwen3")
    prompts = [list(range(n)) for n in (1, 40, 130)]
    settings = {"chunk_sizes": [1, 16, 37]}
    alone = load(folder, 1)
    expected = generate(alone, prompts, 8, **settings)
    loaded = load(folder, 4)
    try:
        assert generate(loaded, prompts, 8, **settings) == expected
        assert loaded.spec == alone.spec
        assert loaded.runner.layout == loaded.shards.layout == alone.runner.layout
        for rank, cache in enumerate(loaded.shards.attach()):
            heads = loaded.shards.heads(rank)
            kept = slice(heads.first_head, heads.first_head + heads.num_heads)
            difference = cache.tensor - alone.cache.tensor[..., kept, :]
            assert difference.abs().max() < 1e-4
    finally:
        loaded.close()
    assert not children()


@pytest.mark.slow
def test_processes_that_share_out_the_experts_say_what_one_does(
    make_checkpoint: Callable[..., Path], generate: Generate
) -> None:
    """The intermediate size of 41 could not be shared."""
    folder = make_checkpoint("qwen3_moe", moe_intermediate_size=41)
    prompts = [list(range(n)) for n in (1, 40)]
    alone = load(folder, 1)
    expected = generate(alone, prompts, 8)
    loaded = load(folder, 2, expert_parallel=True)
    try:
        assert generate(loaded, prompts, 8) == expected
        assert loaded.fingerprint == alone.fingerprint
        rows = [sum(layer.rows for layer in each.steps.experts) for each in (alone, loaded)]
        assert rows[0] == rows[1] > 0
    finally:
        loaded.close()


@pytest.mark.slow
def test_a_rank_that_dies_is_noticed_without_a_step(two_ranks: LoadedModel) -> None:
    two_ranks.runner.run([CHUNK])
    assert two_ranks.failure is None
    (child,) = children()
    child.kill()
    until(lambda: two_ranks.failure is not None)
    for _ in range(2):
        with pytest.raises(RankError, match=r"rank 1 died \(exit status -9\)"):
            two_ranks.runner.run([CHUNK])


@pytest.mark.slow
def test_a_frozen_rank_ends_the_step_and_is_killed(two_ranks: LoadedModel) -> None:
    two_ranks.runner.run([CHUNK])
    (child,) = children()
    child.suspend()
    began_at = time.monotonic()
    with pytest.raises(RankError, match=r"a step failed: .*Timed out waiting 3000ms"):
        two_ranks.runner.run([CHUNK])
    assert time.monotonic() - began_at < STALL_SECONDS + 2.0
    until(lambda: is_dead(child))


@pytest.mark.slow
def test_ranks_do_not_outlive_their_killed_parent(make_checkpoint: Callable[..., Path]) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(make_checkpoint("llama"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    until(lambda: is_dead(child))


def test_a_rank_that_cannot_load_says_so_and_leaves_no_process_behind(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_own", None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RankError, match=r"rank 1 died while it loaded \(exit status 1\)"):
        load(make_checkpoint("llama"), 2)
    assert not children()


def test_the_toy_model_has_one_rank(tmp_path: Path) -> None:
    write_toy_checkpoint(tmp_path)
    with pytest.raises(UnsupportedModel, match="toy model has one rank"):
        load(tmp_path, 2)


def test_heads_that_ranks_cannot_share_are_refused_before_a_process_starts(
    make_checkpoint: Callable[..., Path],
) -> None:
    with pytest.raises(UnsupportedModel, match=r"num_attention_heads 4 is no multiple of .* 3"):
        load(make_checkpoint("llama"), 3)


def test_more_ranks_than_gpus_are_refused(make_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(RankError, match="needs as many CUDA devices, got"):
        load_runner(
            make_checkpoint("llama"),
            device="cuda",
            num_blocks=8,
            kv_memory_bytes=0,
            tensor_parallel_size=4,
        )


class FakeRank:
    """A rank without a process."""

    rank = 1

    def __init__(self) -> None:
        self.socket, self.theirs = socket.socketpair()
        self.killed = 0

    def kill(self) -> None:
        self.killed += 1

    def last_words(self) -> str:
        return "exit status 3"

    def close(self) -> None:
        self.socket.close()
        self.theirs.close()


@pytest.fixture
def fake_rank() -> FakeRank:
    return FakeRank()


def test_a_step_that_waits_for_a_device_too_long_is_aborted(fake_rank: FakeRank) -> None:
    """As on GPUs, where waiting for a collective has no end of its own."""
    aborted = threading.Event()
    watch = RankWatch([fake_rank], on_stuck=lambda: None)
    watch.abort_with(aborted.set)
    with pytest.raises(RankError, match="a step did not end in time"), watch.step(0.1):
        assert aborted.wait(5.0)
    assert fake_rank.killed == 1
    with pytest.raises(RankError, match="a step did not end in time"), watch.step(0.1):
        pytest.fail("no step begins any more")
    watch.close()


def test_a_step_that_not_even_an_abort_ends_ends_the_process(
    fake_rank: FakeRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_STUCK_SECONDS", 0.1)
    ended = threading.Event()
    watch = RankWatch([fake_rank], on_stuck=ended.set)

    def step() -> None:
        with watch.step(None):
            fake_rank.theirs.shutdown(socket.SHUT_RDWR)
            assert ended.wait(5.0)

    with pytest.raises(RankError, match=r"rank 1 died \(exit status 3\)"):
        step()
    watch.close()


def test_a_step_in_time_is_left_alone(fake_rank: FakeRank) -> None:
    ended = threading.Event()
    watch = RankWatch([fake_rank], on_stuck=ended.set)
    with watch.step(0.05):
        pass
    threading.Event().wait(0.4)  # longer than the watch needs to look at the deadline again
    with watch.step(0.05):
        pass
    assert watch.failure is None
    assert not fake_rank.killed
    watch.close()
    assert not ended.is_set()


class StuckStep:
    """Of a device that waits for a lost rank."""

    is_ready = False

    def __init__(self, aborted: threading.Event) -> None:
        self.aborted = aborted

    def tokens(self) -> list[SampledToken | None]:
        assert self.aborted.wait(5.0)
        return []


def test_who_only_looks_at_a_stuck_step_is_sent_to_wait_for_it(fake_rank: FakeRank) -> None:
    aborted = threading.Event()
    watch = RankWatch([fake_rank], on_stuck=lambda: None)
    watch.abort_with(aborted.set)
    step = WatchedStep(StuckStep(aborted), watch, seconds=0.1, overdue_at=time.monotonic() + 0.1)
    assert not step.is_ready
    until(lambda: step.is_ready)
    with pytest.raises(RankError, match="a step did not end in time"):
        step.tokens()
    watch.close()
