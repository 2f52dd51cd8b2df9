"""Several choices of one prompt at a decode worker: the first brings it, the others join there."""

from harness.block_integrity import check_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from policy.decode.decode_model import DecodeWorkerModel

from lengthwise_policy.decode.policy import DecodePolicy, PastFuturePolicy

BLOCK_SIZE = 4


def worker(num_blocks: int, *, window: int = 0) -> DecodeWorkerModel:
    policy = DecodePolicy(
        max_running=8,
        queue_limit=100,
        step_tokens=20,
        past_future=PastFuturePolicy(window=window, reserve=0.0),
    )
    return DecodeWorkerModel(policy, num_blocks, BLOCK_SIZE)


def prompt(num_tokens: int) -> list[int]:
    return [3 * i + 1 for i in range(num_tokens)]


def test_full_blocks_are_held_once_and_each_choice_computes_what_they_leave() -> None:
    model = worker(64)
    first = model.reserve(prompt(22), 8)
    model.arrive(first)
    for _ in range(3):
        model.reserve(prompt(22), 8, local=True)
    # 5 full blocks of the prompt, and one of each of the four.
    assert 64 - model.blocks.num_free == 5 + 4
    model.next_step()
    model.emitted()
    assert model.computed_tokens == 1 + 3 * 2
    model.run()
    assert model.blocks.num_free == 64
    check_cache(model.blocks)


def test_the_prompt_counts_once_when_it_is_admitted() -> None:
    """4 to their limits: 5 blocks of the prompt, and 3 of each, which are predicted as 4."""
    model = worker(5 + 4 * 4)
    model.arrive(model.reserve(prompt(22), 10))
    for _ in range(3):
        model.reserve(prompt(22), 10, local=True)
    assert len(model.admitted) == 4
    model.run()
    assert model.num_preemptions == 0


@settings(deadline=None)
@given(
    num_tokens=st.integers(1, 30),
    stops=st.lists(st.integers(1, 24), min_size=2, max_size=8),
    num_blocks=st.integers(14, 30),
    leaves=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 12)), max_size=4),
    ahead=st.booleans(),
)
def test_no_block_is_lost_whichever_choice_ends_or_leaves_or_is_preempted(
    num_tokens: int,
    stops: list[int],
    num_blocks: int,
    leaves: list[tuple[int, int]],
    ahead: bool,
) -> None:
    """Expecting short outputs, so that some are preempted; every token is checked."""
    model = worker(num_blocks, window=20)
    for _ in range(20):
        model.reserve([9], 2, local=True)
        model.run()
    first = model.reserve(prompt(num_tokens), 24, stops_after=stops[0])
    model.arrive(first)
    names = [first]
    for stop in stops[1:]:
        names.append(model.reserve(prompt(num_tokens), 24, local=True, stops_after=stop))
    at_step = {step: names[index] for index, step in leaves if index < len(names)}
    for step in range(13):
        model.take_granted()
        leaving = at_step.get(step)
        if leaving is not None and (leaving in model.queued or leaving in model.admitted):
            model.release(leaving)
        if model.next_step() is not None and not (ahead and len(model.flights) < 2):
            model.emitted()
    model.run(ahead=ahead)
    assert model.blocks.num_free == num_blocks
    check_cache(model.blocks)
