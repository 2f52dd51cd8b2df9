"""A dead process comes back, later each time; one that keeps dying is given up."""

import signal
from collections.abc import Callable

import pytest

from lengthwise_local import Died, LocalCluster, LocalClusterError, Process, Restarted, Supervisor

MakeCluster = Callable[..., LocalCluster]


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def watched(cluster: LocalCluster, clock: Clock, start_seconds: float = 20.0) -> Supervisor:
    return Supervisor(cluster.processes, start_seconds=start_seconds, clock=clock)


def die(process: Process) -> None:
    process.kill()
    process.wait(5.0)


def test_a_dead_process_is_brought_back_after_a_while(make_cluster: MakeCluster) -> None:
    clock = Clock()
    with make_cluster() as cluster:
        supervisor, worker = watched(cluster, clock), cluster.decode[0]
        assert supervisor.look() == []
        die(worker)
        (died,) = supervisor.look()
        assert isinstance(died, Died)
        assert died.process is worker
        assert died.restart_in_seconds == 0.5
        assert "was killed by SIGKILL; its log ends:\nbehaviour: good" in died.how_it_ended
        clock.now += 0.49
        assert supervisor.look() == []
        assert not worker.running
        clock.now += 0.02
        assert supervisor.look() == []
        worker.wait_ready(10.0)
        assert supervisor.look() == [Restarted(process=worker)]
        assert supervisor.look() == []


@pytest.mark.slow
def test_a_process_that_keeps_dying_is_given_up(make_cluster: MakeCluster) -> None:
    clock, delays = Clock(), []
    with make_cluster(configs={"decode": {"behaviour": "crash-later"}}) as cluster:
        supervisor, worker = watched(cluster, clock), cluster.decode[0]
        die(worker)
        for _ in range(5):
            (died,) = supervisor.look()
            assert isinstance(died, Died)
            delays.append(died.restart_in_seconds)
            clock.now += died.restart_in_seconds
            supervisor.look()
            worker.wait(5.0)
        with pytest.raises(LocalClusterError, match=r"restarted 5 times within 60 s[\s\S]*again"):
            supervisor.look()
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0]


@pytest.mark.slow
def test_old_deaths_are_forgotten(make_cluster: MakeCluster) -> None:
    clock = Clock()
    with make_cluster() as cluster:
        supervisor, worker = watched(cluster, clock), cluster.prefill[0]
        for _ in range(7):
            die(worker)
            (died,) = supervisor.look()
            assert isinstance(died, Died)
            assert died.restart_in_seconds == 0.5
            clock.now += 1.0
            supervisor.look()
            worker.wait_ready(10.0)
            supervisor.look()
            clock.now += 60.0


def test_a_restart_that_does_not_become_ready_is_a_death(make_cluster: MakeCluster) -> None:
    clock = Clock()
    with make_cluster(configs={"decode": {"behaviour": "mute-later"}}) as cluster:
        supervisor, worker = watched(cluster, clock, start_seconds=5.0), cluster.decode[0]
        die(worker)
        supervisor.look()
        clock.now += 1.0
        supervisor.look()
        clock.now += 5.0
        supervisor.look()
        assert worker.wait(5.0) == -signal.SIGKILL
        (died,) = supervisor.look()
        assert isinstance(died, Died)
        assert died.restart_in_seconds == 1.0
