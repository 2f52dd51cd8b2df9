"""PromptQueue against a sorted list, and the estimate of how often prompts arrive."""

import math
from random import Random

import pytest

from lengthwise_policy.prefill.arrival_rate import ArrivalRate
from lengthwise_policy.prefill.queue import PrefillJob, Prompt, PromptQueue, Urgency
from lengthwise_policy.types import RequestId


def prompt(number: int, num_tokens: int, priority: int = 0) -> Prompt:
    job = PrefillJob(
        request_id=RequestId(f"r{number}"),
        num_tokens=num_tokens,
        arrived_at=0.0,
        deadline_at=math.inf,
        priority=priority,
    )
    return Prompt(job=job, number=number, usable=(), length="short", num_computed=0)


def urgency(waiting: Prompt) -> Urgency:
    return (-waiting.job.priority, 0.0, waiting.number)


def test_prompts_leave_by_urgency_whatever_came_and_went_before() -> None:
    random = Random(3)
    queue = PromptQueue([8, 64])
    waiting: list[Prompt] = []
    for number in range(3000):
        action = random.random()
        if action < 0.5:
            new = prompt(number, random.randrange(1, 200), random.randrange(3))
            queue.push(urgency(new), new)
            waiting.append(new)
        elif waiting and action < 0.75:
            gone = waiting.pop(random.randrange(len(waiting)))
            queue.discard(gone)
            assert gone not in queue
            if random.random() < 0.3:  # it comes back, as one does that lacked blocks
                queue.push(urgency(gone), gone)
                waiting.append(gone)
        elif waiting:
            first = min(waiting, key=urgency)
            assert queue.head() is first
            assert queue.pop() is first
            waiting.remove(first)
        assert len(queue) == len(waiting)
    assert set(queue) == set(waiting)


def test_a_bucket_goes_first_within_the_highest_priority() -> None:
    queue = PromptQueue([8])
    for number, (num_tokens, priority) in enumerate([(5, 0), (50, 1), (7, 1), (60, 0), (6, 1)]):
        new = prompt(number, num_tokens, priority)
        queue.push(urgency(new), new)
    bucket = queue.bucket_of(prompt(99, 8))
    popped = [queue.pop(bucket) for _ in range(5)]
    assert [each.number for each in popped if each] == [2, 4, 1, 0, 3]
    assert queue.pop(bucket) is None


def test_the_rate_of_a_steady_stream_is_found_and_then_forgotten() -> None:
    rate = ArrivalRate(memory_seconds=1.0)
    assert rate.per_second(0.0) == 0.0
    for tick in range(500):
        rate.arrived(tick * 0.01)
    assert rate.per_second(5.0) == pytest.approx(100, rel=0.02)
    assert rate.per_second(8.0) < 6


def test_one_arrival_after_a_silence_is_not_a_stream() -> None:
    rate = ArrivalRate(memory_seconds=1.0)
    rate.arrived(1000.0)
    assert rate.per_second(1000.0) == pytest.approx(1.0)
