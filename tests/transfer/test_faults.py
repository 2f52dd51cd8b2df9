"""Transfer processes that are killed or frozen, peers that say nothing, and what it costs."""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial

import psutil
import pytest
import torch
from harness.waiting import until
from transfer.ends import (
    CONNECT_SECONDS,
    LAYOUT,
    STALL_SECONDS,
    End,
    Ends,
    new_cache,
    new_name,
    random_piece,
    start_processes,
)

from lengthwise_engine.transfer.base import (
    Discarded,
    LinkDown,
    LinkUp,
    Piece,
    ProcessLost,
    Received,
    Sent,
    TransferEvent,
)
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.supervisor.outstanding_ops import MARGIN_SECONDS

EVERYTHING = random_piece(1, 400)  # 15 MB: four messages
NUM_BYTES = EVERYTHING.num_bytes(LAYOUT)

pytestmark = pytest.mark.slow


def push(ends: Ends, link: str, count: int) -> None:
    for sequence in range(count):
        key = f"key {sequence}"
        ends.receiver.transfer.receive(link, sequence, key, EVERYTHING, NUM_BYTES)
        ends.sender.transfer.send(link, sequence, EVERYTHING)


def link_again(ends: Ends) -> str:
    """A link under a new name, as soon as both processes are there again."""

    def outcome(end: End, link: str) -> TransferEvent | None:
        return next(iter(end.about(link)), None)

    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        link = new_name()
        ends.sender.transfer.connect(link, ends.receiver.transfer.rendezvous)
        ends.receiver.transfer.accept(link)
        for end in (ends.sender, ends.receiver):
            until(partial(outcome, end, link))
        outcomes = [outcome(end, link) for end in (ends.sender, ends.receiver)]
        if all(isinstance(event, LinkUp) for event in outcomes):
            return link
    raise AssertionError("no link came up again")


both = pytest.mark.parametrize("patient_ends", ["pull", "network"], indirect=True)


@both
def test_discard_is_done_while_the_sender_is_frozen(patient_ends: Ends) -> None:
    ends = patient_ends
    start = len(ends.receiver.events)
    link = ends.link()
    push(ends, link, 60)
    ends.receiver.wait(Received, link=link, sequence=5)
    os.kill(ends.sender.transfer.pid, signal.SIGSTOP)
    num_received = sum(isinstance(event, Received) for event in ends.receiver.about(link))
    assert num_received < 60, "the sender was to be frozen in the middle"
    for sequence in range(60):
        ends.receiver.transfer.discard(f"key {sequence}")
        ends.receiver.wait(Discarded, 5.0, start, key=f"key {sequence}")
    ends.receiver.cache.tensor.fill_(7)
    os.kill(ends.sender.transfer.pid, signal.SIGCONT)
    ends.receiver.wait(Received, link=link, sequence=59)
    assert bool((ends.receiver.cache.tensor == 7).all())


@pytest.mark.parametrize(
    ("victim", "is_busy", "patient_ends"),
    [
        pytest.param("sender", False, "pull", id="idle sender"),
        pytest.param("receiver", True, "pull", id="receiver, reading"),
        pytest.param("sender", True, "network", id="sender, sending"),
        pytest.param("receiver", True, "network", id="receiver, receiving"),
    ],
    indirect=["patient_ends"],
)
def test_a_killed_process_is_noticed_at_once_and_replaced(
    patient_ends: Ends, victim: str, is_busy: bool
) -> None:
    ends = patient_ends
    link = ends.link()
    if is_busy:
        push(ends, link, 60)
        ends.receiver.wait(Received, link=link, sequence=2)
    dead = getattr(ends, victim)
    peer = ends.receiver if victim == "sender" else ends.sender
    rendezvous, pid = ends.receiver.transfer.rendezvous, dead.transfer.pid
    start = len(dead.events)
    os.kill(pid, signal.SIGKILL)
    dead.wait(ProcessLost, 3.0, start)
    peer.wait(LinkDown, 3.0, link=link)
    name = new_name()
    dead.transfer.connect(name, rendezvous)
    dead.transfer.discard("while it is away")
    dead.wait(LinkDown, 3.0, link=name)
    dead.wait(Discarded, 3.0, start, key="while it is away")
    again = link_again(ends)
    push(ends, again, 1)
    received = ends.receiver.wait(Received, link=again)
    assert ends.sender.wait(Sent, link=again).checksum == received.checksum
    assert ends.receiver.transfer.rendezvous == rendezvous
    assert dead.transfer.pid != pid


@pytest.mark.parametrize(
    ("victim", "kind"), [("sender", "network"), ("receiver", "pull")], ids=["sender", "receiver"]
)
def test_a_frozen_process_takes_its_link_down_and_is_replaced(
    request: pytest.FixtureRequest, victim: str, kind: str
) -> None:
    ends: Ends = request.getfixturevalue(f"{kind}_ends")
    link = ends.link()
    push(ends, link, 40)
    ends.receiver.wait(Received, link=link, sequence=1)
    frozen = getattr(ends, victim)
    peer = ends.receiver if victim == "sender" else ends.sender
    start = len(frozen.events)
    os.kill(frozen.transfer.pid, signal.SIGSTOP)
    frozen_at = time.monotonic()
    peer.wait(LinkDown, link=link)
    assert time.monotonic() - frozen_at > 0.5, "it has the stall time to recover"
    frozen.wait(ProcessLost, STALL_SECONDS + MARGIN_SECONDS + 1.0, start)
    link_again(ends)


def test_a_receiver_that_thaws_too_late_has_lost_its_link(pull_ends: Ends) -> None:
    ends = pull_ends
    link = ends.link()
    push(ends, link, 60)
    ends.receiver.wait(Received, link=link, sequence=1)
    os.kill(ends.receiver.transfer.pid, signal.SIGSTOP)
    ends.sender.wait(LinkDown, link=link)
    content = ends.sender.cache.tensor.clone()
    ends.sender.cache.tensor.fill_(7)  # its blocks may be given away now
    os.kill(ends.receiver.transfer.pid, signal.SIGCONT)
    ends.receiver.wait(LinkDown, link=link)
    before = ends.receiver.cache.tensor.clone()
    ends.link()  # whatever would still have been copied has been copied by now
    assert torch.equal(ends.receiver.cache.tensor.view(torch.uint8), before.view(torch.uint8))
    ends.sender.cache.tensor.copy_(content)


def test_one_link_that_stalls_leaves_the_others_alone(pull_ends: Ends) -> None:
    ends = pull_ends
    dead, alive = ends.link(), ends.link()
    piece = random_piece(2, 10)
    ends.receiver.transfer.receive(dead, 0, "never", piece, piece.num_bytes(LAYOUT))
    for sequence in range(20):
        ends.receiver.transfer.receive(alive, sequence, "key", piece, piece.num_bytes(LAYOUT))
        ends.sender.transfer.send(alive, sequence, piece)
        ends.receiver.wait(Received, link=alive, sequence=sequence)
        time.sleep(0.1)  # longer in all than the stall takes
    ends.receiver.wait(LinkDown, link=dead)
    ends.sender.wait(LinkDown, link=dead)
    assert [type(event) for event in ends.sender.about(alive)] == [LinkUp, *[Sent] * 20]


def test_connecting_to_no_peer_ends_in_link_down(hasty_ends: Ends) -> None:
    link = new_name()
    hasty_ends.sender.transfer.connect(link, "127.0.0.1:1")
    hasty_ends.sender.wait(LinkDown, link=link)


def test_accepting_from_no_peer_ends_in_link_down(hasty_ends: Ends) -> None:
    link = new_name()
    hasty_ends.receiver.transfer.accept(link)
    hasty_ends.receiver.wait(LinkDown, link=link)


def test_connecting_to_one_who_does_not_accept_ends_in_link_down(hasty_ends: Ends) -> None:
    link = new_name()
    hasty_ends.sender.transfer.connect(link, hasty_ends.receiver.transfer.rendezvous)
    hasty_ends.sender.wait(LinkDown, link=link)


def test_a_receive_without_an_answer_takes_the_link_down(hasty_ends: Ends) -> None:
    link = hasty_ends.link()
    piece = random_piece(10, 1)
    hasty_ends.receiver.transfer.receive(link, 0, "key", piece, piece.num_bytes(LAYOUT))
    for end in (hasty_ends.sender, hasty_ends.receiver):
        end.wait(LinkDown, link=link)


def test_a_rendezvous_that_accepts_and_says_nothing_is_given_up(pull_ends: Ends) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = new_name()
        pull_ends.sender.transfer.connect(link, f"127.0.0.1:{silent.getsockname()[1]}")
        down = pull_ends.sender.wait(LinkDown, link=link)
    assert "timed out" in down.reason


@pytest.fixture
def attack(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], End]]:
    """Starts a process whose log the test reads; not here, where `capfd` reads another one."""
    end = End(new_cache(1))

    def start() -> End:
        start_processes(TransferConfig(connect_seconds=CONNECT_SECONDS), end)
        capfd.readouterr()
        return end

    yield start
    end.transfer.stop()


FOREIGN = {
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "nested deeply": struct.pack("!I", 100_000) + b"[" * 100_000,
    "a name of 64 MiB": struct.pack("!I", 64 * 2**20) + b'"aaaa',
    "no name": struct.pack("!I", 2) + b"1\n",
    "no text": struct.pack("!I", 4) + b'"\xff\xfe"',
}


def test_foreign_bytes_at_the_rendezvous_cost_one_line_and_their_connection(
    attack: Callable[[], End], pull_ends: Ends, capfd: pytest.CaptureFixture[str]
) -> None:
    attacked = attack()
    host, _, port = attacked.transfer.rendezvous.rpartition(":")
    pid = attacked.transfer.pid
    for name, greeting in {**FOREIGN, "nothing": b""}.items():
        with socket.create_connection((host, int(port))) as stranger:
            stranger.settimeout(5.0)
            with suppress(OSError):  # closed before it took everything
                stranger.sendall(greeting)
                stranger.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                assert stranger.recv(1) == b"", name
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == (name in FOREIGN), (name, lines)
        assert all("closed a connection of 127.0.0.1" in line for line in lines)
    link_again(Ends(pull_ends.sender, attacked))
    assert attacked.transfer.pid == pid


def test_a_process_out_of_file_descriptors_accepts_again_when_it_has_some(
    attack: Callable[[], End], pull_ends: Ends, capfd: pytest.CaptureFixture[str]
) -> None:
    attacked = attack()
    host, _, port = attacked.transfer.rendezvous.rpartition(":")
    process = psutil.Process(attacked.transfer.pid)
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 2, limits[1]))
    with ExitStack() as strangers:
        for _ in range(8):
            strangers.enter_context(socket.create_connection((host, int(port))))
        until(lambda: "Too many open files" in capfd.readouterr().err)
        used = process.cpu_times().user
        time.sleep(1.0)
        assert process.cpu_times().user - used < 0.2, "it does not spin"
    process.rlimit(psutil.RLIMIT_NOFILE, limits)
    link_again(Ends(pull_ends.sender, attacked))
    assert attacked.transfer.pid == process.pid


def push_one(ends: Ends, link: str, piece: Piece) -> None:
    ends.receiver.transfer.receive(link, 0, "key", piece, piece.num_bytes(LAYOUT))
    ends.sender.transfer.send(link, 0, piece)
    ends.receiver.wait(Received, link=link, sequence=0)
    assert torch.equal(
        ends.sender.cache.tensor[0, piece.block_ids[0]].view(torch.uint8),
        ends.receiver.cache.tensor[0, piece.block_ids[0]].view(torch.uint8),
    )


def has_at_most(count: Callable[[], int], limit: int) -> bool:
    return count() <= limit


def test_hundreds_of_links_leave_nothing_behind(process_ends: Ends) -> None:
    pids = [end.transfer.pid for end in (process_ends.sender, process_ends.receiver)]
    processes = [psutil.Process(pid) for pid in pids]
    piece = random_piece(4, 1)

    def use_links(count: int) -> None:
        for number in range(count):
            link = process_ends.link()
            push_one(process_ends, link, piece)
            closer = (process_ends.sender, process_ends.receiver)[number % 2]
            closer.transfer.close(link)
            for end in (process_ends.sender, process_ends.receiver):
                end.wait(LinkDown, link=link)
            process_ends.sender.events.clear()
            process_ends.receiver.events.clear()

    use_links(40)
    time.sleep(0.2)
    before = [(p.num_threads(), p.num_fds(), p.memory_info().rss) for p in processes]
    use_links(200)
    for process, (threads, fds, rss) in zip(processes, before, strict=True):
        until(partial(has_at_most, process.num_threads, threads))
        until(partial(has_at_most, process.num_fds, fds))
        assert process.memory_info().rss < rss + 16 * 2**20
