"""Whose turn it is to have a prompt computed that several samples share."""

import asyncio
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_policy.types import WorkerId
from lengthwise_router.serving.calls.shared_prompt import SharedPrompt
from lengthwise_router.serving.deadline import RequestDeadline
from lengthwise_router.workers.wakeup import Wakeups

HOLDER = WorkerId("d1")

outcomes = st.lists(
    st.sampled_from(["fails", "holds", "ends", "separates", "is cancelled"]), max_size=4
)


def new_deadline() -> RequestDeadline:
    async def keepalive() -> None:
        raise AssertionError("no test waits so long")

    return RequestDeadline(
        wakeup=Wakeups().new(), seconds=math.inf, keepalive_seconds=60, keepalive=keepalive
    )


class Play:
    """Samples that go through attempts with given outcomes, as a dispatch does."""

    def __init__(self) -> None:
        self.prompt = SharedPrompt()
        self.leading: set[int] = set()

    async def sample(self, number: int, plan: list[str]) -> None:
        deadline = new_deadline()
        try:
            for outcome in [*plan, "ends"]:
                holder = await self.prompt.turn(deadline)
                if holder is None and not self.prompt.is_decided:
                    self.leading.add(number)
                    assert self.leading == {number}, "two have the prompt computed"
                await asyncio.sleep(0)
                if outcome == "holds":
                    self.prompt.held_by(HOLDER, 16)
                elif outcome == "separates":
                    self.prompt.separate()
                if outcome in ("ends", "is cancelled"):
                    return
        finally:
            self.leading.discard(number)
            self.prompt.left(deadline)


@settings(deadline=None)
@given(st.lists(outcomes, min_size=1, max_size=6))
def test_one_leads_until_all_know_where_the_prompt_is_and_none_waits_for_ever(
    plans: list[list[str]],
) -> None:
    async def play() -> None:
        playing = Play()
        async with asyncio.timeout(20):
            await asyncio.gather(*(playing.sample(i, plan) for i, plan in enumerate(plans)))

    asyncio.run(play())


async def test_a_sample_that_is_cancelled_while_it_waits_leaves_the_others_alone() -> None:
    prompt, leader = SharedPrompt(), new_deadline()
    assert await prompt.turn(leader) is None
    waiting = [asyncio.create_task(prompt.turn(new_deadline())) for _ in range(3)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    prompt.held_by(HOLDER, 32)
    prompt.held_by(WorkerId("d2"), 64)
    assert await asyncio.gather(*waiting[1:]) == [HOLDER, HOLDER]
    assert prompt.held_tokens == 32
    prompt.left(leader)
    assert await prompt.turn(new_deadline()) == HOLDER
