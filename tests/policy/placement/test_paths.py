"""While some path could serve a request, one is chosen or waited for: against brute force."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.placement.views import asking, decode, pair, prefill, request

from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.placement.attempts import MAX_PAUSE_SECONDS, Attempts
from lengthwise_policy.placement.blame import Blame, Link, Standing
from lengthwise_policy.placement.placement import PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import STRATEGIES, make_strategy
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import WorkerId

PREFILL, DECODE = ("p1", "p2"), ("d1", "d2")
LINKS = [(WorkerId(p), WorkerId(d)) for p, d in product(PREFILL, DECODE)]

Path = tuple[str | None, str | None]

conditions = st.sampled_from(["sound", "cut off", "draining", "gone"])
workers = st.fixed_dictionaries(dict.fromkeys((*PREFILL, *DECODE), conditions))
blames = st.builds(
    lambda names, links: Blame(frozenset(map(WorkerId, names)), frozenset(links)),
    st.sets(st.sampled_from((*PREFILL, *DECODE))),
    st.sets(st.sampled_from(LINKS)),
)


def views(names: tuple[str, ...], condition: dict[str, str]) -> list[WorkerView]:
    make = prefill if names is PREFILL else decode
    return [
        make(name, draining=condition[name] == "draining", transfers=condition[name] != "cut off")
        for name in names
        if condition[name] != "gone"
    ]


def every_path(condition: dict[str, str], *, one_token: bool, local: bool) -> list[Path]:
    """All that could serve a request, by what the words mean."""
    usable = {name for name, state in condition.items() if state in ("sound", "cut off")}
    sound = {name for name, state in condition.items() if state == "sound"}
    paths: list[Path] = []
    if one_token:
        paths += [(p, None) for p in PREFILL if p in usable]
    else:
        paths += [(p, d) for p, d in product(PREFILL, DECODE) if {p, d} <= sound]
    if local:
        paths += [(None, d) for d in DECODE if d in usable]
    return paths


def standing(path: Path, blame: Blame) -> Standing:
    p, d = path
    if {p, d} & blame.workers or path in blame.links:
        return Standing.FAILED
    ends = {name for link in blame.links for name in link}
    return Standing.DOUBTFUL if p and d and {p, d} & ends else Standing.CLEAN


@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    condition=workers,
    blame=blames,
    one_token=st.booleans(),
    local=st.booleans(),
)
def test_the_path_with_the_least_blame_is_chosen(
    name: str, condition: dict[str, str], blame: Blame, one_token: bool, local: bool
) -> None:
    strategy = make_strategy(name, PlacementPolicy(local_prefill=local), lambda: 0.5)
    asked = request(blame=blame, max_new_tokens=1 if one_token else 10)
    paths = every_path(condition, one_token=one_token, local=local)
    try:
        chosen = pair(strategy(asking(asked, views(PREFILL, condition), views(DECODE, condition))))
    except NoCandidates:
        assert not paths
        return
    assert chosen in paths
    assert standing(chosen, blame) == min(standing(path, blame) for path in paths)
    assert blame.standing(asked_id(chosen[0]), asked_id(chosen[1])) == standing(chosen, blame)


def asked_id(name: str | None) -> WorkerId | None:
    return None if name is None else WorkerId(name)


@pytest.mark.parametrize(
    ("links", "chosen"),
    [
        pytest.param([("p1", "d1")], ("p2", "d2"), id="a pair with neither end"),
        pytest.param([("p1", "d1"), ("p2", "d2")], (None, "d1"), id="no transfer at all"),
    ],
)
def test_after_a_failed_transfer_the_next_path_shares_nothing_with_it(
    links: list[Link], chosen: Path
) -> None:
    strategy = make_strategy("predicted_ttft", PlacementPolicy(), lambda: 0.0)
    asked = request(blame=Blame(links=frozenset(links)))
    sides = [prefill("p1"), prefill("p2")], [decode("d1"), decode("d2")]
    assert pair(strategy(asking(asked, *sides))) == chosen


def test_without_transfer_a_decode_worker_keeps_its_reservation_for_itself() -> None:
    strategy = make_strategy("predicted_ttft", PlacementPolicy(), lambda: 0.0)
    asked = request(reserved_decode=WorkerId("d1"))
    sides = [prefill("p1")], [decode("d1", transfers=False), decode("d2")]
    assert pair(strategy(asking(asked, *sides))) == (None, "d1")


def test_a_refusal_counts_the_workers_that_cannot_transfer() -> None:
    strategy = make_strategy("predicted_ttft", PlacementPolicy(local_prefill=False), lambda: 0.0)
    with pytest.raises(NoCandidates, match="of 1 known, 0 drain, 1 cannot transfer KV and 0 are"):
        strategy(asking(request(), [prefill("p1", transfers=False)], [decode("d1")]))


SECONDS = 10.0


class Simulation:
    """One request among paths that fail in turn, until it has failed for good."""

    def __init__(self, max_attempts: int = 8) -> None:
        self.attempts = Attempts(max_attempts=max_attempts, patience_seconds=SECONDS)
        self.now = 0.0
        self.num_tried = 0

    def run(self, best: Standing | None, blame: Blame, until: float) -> bool:
        """Whether it goes on at that time, where every attempt fails at once."""
        while self.now < until:
            begin_at = self.attempts.begin_at(best, self.now)
            if begin_at is None:
                return False
            if begin_at > self.now:
                self.now = min(begin_at, until)
                continue
            self.num_tried += 1
            if not self.attempts.failed(blame, self.now):
                return False
        return True


ONE_LINK = Blame(links=frozenset(LINKS[:1]))


def test_attempts_are_not_burnt_on_a_link_that_is_down_and_end_with_the_patience() -> None:
    simulation = Simulation()
    assert simulation.run(Standing.FAILED, ONE_LINK, SECONDS - 0.01)
    assert 8 < simulation.num_tried <= 5 + SECONDS / MAX_PAUSE_SECONDS
    assert not simulation.run(Standing.FAILED, ONE_LINK, SECONDS + 1)


def test_without_a_path_nothing_is_tried_and_the_patience_ends_it() -> None:
    simulation = Simulation()
    assert simulation.run(None, ONE_LINK, SECONDS - 0.01)
    assert not simulation.run(None, ONE_LINK, SECONDS + 1)
    assert simulation.num_tried == 0


def test_a_request_that_breaks_every_worker_ends_after_its_attempts() -> None:
    simulation = Simulation(max_attempts=3)
    assert not simulation.run(Standing.FAILED, Blame.of(WorkerId("d1")), SECONDS)
    assert simulation.num_tried == 3


def test_a_worker_that_is_lost_and_back_time_and_again_is_waited_for() -> None:
    attempts = Attempts(max_attempts=3, patience_seconds=SECONDS)
    flapping = Blame.of(WorkerId("d1"))
    assert all(attempts.failed(flapping, now, lost=True) for now in range(20))
    assert attempts.failed(Blame.of(WorkerId("d2")), 20.0, lost=True)
    assert not attempts.failed(Blame.of(WorkerId("d3")), 21.0, lost=True)


def test_a_busy_worker_is_waited_for_as_long_as_patience_lasts() -> None:
    attempts, blame = Attempts(max_attempts=1, patience_seconds=SECONDS), Blame.of(WorkerId("d1"))
    assert attempts.begin_at(Standing.CLEAN, 0.0) == 0.0
    now: float | None = 0.0
    while now is not None:
        assert now <= SECONDS
        assert attempts.failed(blame, now, busy=True)
        waited = attempts.begin_at(Standing.FAILED, now)
        now = attempts.begin_at(Standing.FAILED, waited) if waited is not None else None


@given(
    standings=st.lists(st.sampled_from([None, *Standing]), min_size=1, max_size=60),
    step=st.floats(0.0, 3.0),
)
def test_a_path_that_has_not_failed_is_taken_at_once_and_any_other_waits(
    standings: list[Standing | None], step: float
) -> None:
    attempts = Attempts(max_attempts=10_000, patience_seconds=SECONDS)
    now, lacking_since = 0.0, None
    for best in standings:
        now += step
        begin_at = attempts.begin_at(best, now)
        if best is not None and best < Standing.FAILED:
            assert begin_at == now
            lacking_since = None
            attempts.failed(ONE_LINK, now)
            continue
        lacking_since = now if lacking_since is None else lacking_since
        if now >= lacking_since + SECONDS:
            assert begin_at is None
            return
        assert begin_at is not None
        assert now <= begin_at <= lacking_since + SECONDS
        if best is None:
            assert begin_at == lacking_since + SECONDS
        elif begin_at == now:
            attempts.failed(ONE_LINK, now)


def test_tokens_restore_the_patience() -> None:
    simulation = Simulation()
    assert simulation.run(None, Blame(), SECONDS - 0.01)
    simulation.attempts.progressed()
    assert simulation.run(None, Blame(), 2 * SECONDS - 0.1)


def test_one_blame_is_the_sum_of_its_parts() -> None:
    one, other = Blame.of(WorkerId("d2")), ONE_LINK
    assert (one | other) == Blame(one.workers, other.links)
    assert not Blame()
    assert one
    assert other
    assert PlacementRequest(num_tokens=1, max_new_tokens=1).blame == Blame()
