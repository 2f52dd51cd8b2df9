"""Deadlines: named in order until discarded, without growing with what has been discarded."""

from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.deadlines import Deadlines
from lengthwise_policy.types import RequestId

ids = st.sampled_from([RequestId(name) for name in "abcdef"])


@given(st.lists(st.tuples(ids, st.integers(0, 5), st.booleans())), st.integers(0, 6))
def test_what_passed_is_named_in_order_of_deadline_then_id(
    changes: list[tuple[RequestId, int, bool]], now: int
) -> None:
    deadlines = Deadlines()
    expected: dict[RequestId, int] = {}
    for request_id, at, discard in changes:
        deadlines.discard(request_id)
        expected.pop(request_id, None)
        if not discard:
            deadlines.add(request_id, at)
            expected[request_id] = at
    passed = sorted((at, request_id) for request_id, at in expected.items() if at <= now)
    for _ in range(2):
        assert deadlines.passed(now) == tuple(request_id for _, request_id in passed)


def test_discarded_deadlines_do_not_pile_up() -> None:
    deadlines = Deadlines()
    deadlines.add(RequestId("stays"), 1e9)
    for number in range(10_000):
        request_id = RequestId(str(number))
        deadlines.add(request_id, 1e9)
        deadlines.discard(request_id)
    assert len(deadlines._heap) < 100
    assert deadlines.passed(2e9) == (RequestId("stays"),)
