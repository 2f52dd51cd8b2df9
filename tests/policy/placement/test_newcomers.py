"""Prompts that wait at prefill workers when another one comes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.placement.views import large, prefill

from lengthwise_policy.placement.outstanding import (
    LEAST_GAIN_SECONDS,
    MAX_REFUSALS,
    QueuedPrompt,
    left_for_newcomer,
)
from lengthwise_policy.placement.worker_view import WorkerView, wait_seconds
from lengthwise_policy.types import WorkerId

NEWCOMER = large(prefill("new"))


def prompt(worker_id: str = "old", num_tokens: int = 1000, **changes: Any) -> QueuedPrompt:
    queued = QueuedPrompt(
        worker_id=WorkerId(worker_id),
        num_tokens=num_tokens,
        residual_tokens=num_tokens,
        refusals=0,
    )
    return replace(queued, **changes)


def busy(tokens: int, worker_id: str = "old", **changes: Any) -> WorkerView:
    return large(prefill(worker_id), queued_tokens=tokens, **changes)


def leave(
    prompts: list[QueuedPrompt],
    *workers: WorkerView,
    newcomer: WorkerView = NEWCOMER,
    other_routers: int = 0,
) -> list[QueuedPrompt]:
    return left_for_newcomer(prompts, newcomer, [*workers, newcomer], other_routers)


def test_the_half_that_came_last_leaves_a_queue_for_a_newcomer() -> None:
    """By hand: 1,000 tokens take 0.125 s. Of ten prompts the last would be computed after 1.25 s,
    or 0.125 s; the seventh after 0.875 s, or 0.5; the sixth 0.125 s sooner, the fifth not."""
    prompts = [prompt() for _ in range(10)]
    assert leave(prompts, busy(10_000)) == prompts[:4:-1]


def test_prompts_leave_the_longer_queues() -> None:
    prompts = [prompt("a"), prompt("b"), prompt("a"), prompt("b")]
    left = leave(prompts, busy(20_000, "a"), busy(500, "b"))
    assert {each.worker_id for each in left} == {"a"}


def test_a_prompt_stays_that_gains_too_little() -> None:
    assert leave([prompt()], busy(1000)) == []
    cached = prompt(num_tokens=8000, residual_tokens=500)  # the newcomer has nothing of its prefix
    assert leave([cached], busy(6000)) == []
    assert leave([cached], busy(12_000)) == [cached]


def test_short_prompts_wait_for_little_and_stay() -> None:
    assert leave([prompt(num_tokens=50)], busy(20_000)) == []
    short = prompt(num_tokens=50)
    assert leave([short], busy(20_000, queued_short_tokens=10_000)) == [short]


def test_a_prompt_is_passed_on_a_few_times_at_most() -> None:
    assert leave([prompt(refusals=MAX_REFUSALS)], busy(20_000)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"draining": True},
        {"layout_fingerprint": "other"},
        {"length_class": "short"},
        {"transfers": False},
        {"blocks_total": 10},
    ],
)
def test_nothing_leaves_for_a_worker_that_could_not_take_it(changes: dict[str, Any]) -> None:
    assert leave([prompt()], busy(20_000), newcomer=replace(NEWCOMER, **changes)) == []


def test_what_waits_at_workers_that_are_gone_is_left_to_their_loss() -> None:
    assert leave([prompt("gone"), prompt("new")], busy(20_000)) == []


@given(
    queues=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 8000), max_size=60),
    other_routers=st.integers(0, 4),
    has_come=st.integers(0, 20_000),
)
def test_each_that_leaves_gains_and_newcomers_are_not_overfilled(
    queues: list[int], sizes: list[int], other_routers: int, has_come: int
) -> None:
    names = [f"old{number}" for number in range(len(queues))]
    prompts = [
        prompt(names[number % len(names)], num_tokens=size) for number, size in enumerate(sizes)
    ]
    ahead = {name: extra * 100 for name, extra in zip(names, queues, strict=True)}
    for each in prompts:
        ahead[each.worker_id] += each.num_tokens
    workers = [busy(tokens, name) for name, tokens in ahead.items()]
    newcomer = replace(NEWCOMER, queued_tokens=has_come)
    left = leave(prompts, *workers, newcomer=newcomer, other_routers=other_routers)
    assert len(set(left)) == len(left)
    coming = has_come
    for each in left:
        stays = wait_seconds(NEWCOMER.cost, ahead[each.worker_id])
        goes = wait_seconds(NEWCOMER.cost, coming + each.num_tokens)
        assert stays - goes >= LEAST_GAIN_SECONDS
        ahead[each.worker_id] -= each.num_tokens
        coming += each.num_tokens
