"""The schedule of a soak follows from its seed and has every kind of fault."""

from collections import Counter

from soak.schedule import ENDS, KINDS, Roster, make_schedule

ROSTER = Roster(
    prefill=("prefill-0", "prefill-1"),
    decode=("decode-0", "decode-1"),
    flexible=("flexible-0",),
    routers=("router-0", "router-1"),
    raw_router="router-2",
    steady=frozenset(("prefill-0", "decode-0", "router-2")),
)


def test_a_seed_gives_the_same_schedule_again_and_another_one_another() -> None:
    assert make_schedule(7, 600, ROSTER) == make_schedule(7, 600, ROSTER)
    assert make_schedule(7, 600, ROSTER) != make_schedule(8, 600, ROSTER)


def test_half_an_hour_has_two_hundred_faults_of_all_kinds_in_order() -> None:
    schedule = make_schedule(1, 1800, ROSTER)
    assert len(schedule) >= 200
    counts = Counter(fault.kind for fault in schedule)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert counts.keys() == set(KINDS)
    times = [fault.at_seconds for fault in schedule]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 1800
    assert len(set(times)) < len(times), "none happen at once"


def test_steady_processes_are_never_ended_and_the_raw_router_never_frozen() -> None:
    for fault in make_schedule(2, 20_000, ROSTER):
        assert fault.kind not in ENDS or fault.victim not in ROSTER.steady
        assert fault.kind != "freeze" or (3 <= fault.seconds <= 40 and fault.victim != "router-2")
        assert fault.victim != fault.peer


def test_without_flexible_workers_none_is_flipped() -> None:
    roster = Roster(
        prefill=("p",),
        decode=("d",),
        flexible=(),
        routers=("r",),
        raw_router="s",
        steady=frozenset(),
    )
    assert {fault.kind for fault in make_schedule(3, 600, roster)} == set(KINDS) - {"flip"}
