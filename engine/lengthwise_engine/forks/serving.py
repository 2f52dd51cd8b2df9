"""What a fork server does.

`python -m lengthwise_engine.forks.serving SOCKET MODULE…` serves with these modules imported.
"""

import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from lengthwise_engine.forks.process import NUMBER

REQUEST_BYTES: Final = 2**17
_MOST_DESCRIPTORS: Final = 250


def serve(control: socket.socket, modules: Sequence[str]) -> Callable[[], object] | None:
    """Returns None at the end of the server, and in each process that it forks what that has to
    run."""
    _set_title([sys.executable, "-m", "lengthwise_engine.forks.serving"])
    for module in modules:
        with suppress(ImportError):  # whichever process needs it says so
            importlib.import_module(module)
    gc.freeze()  # a collection would write to what is shared
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # its user's to answer
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reports: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if woken.fileno() in ready:
            woken.recv(4096)
            _reap(reports)
        if control.fileno() not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, _MOST_DESCRIPTORS)
        if not data:
            signal.set_wakeup_fd(-1)  # its forks may well end after its sockets are closed
            return None
        report = socket.socket(fileno=descriptors[0])
        try:
            pid = fork()
        except OSError:  # there are too many processes
            report.close()
        else:
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for each in (control, woken, wake, report, *reports.values()):
                    each.close()
                return _become(json.loads(data), descriptors[1:])
            reports[pid] = report
            with suppress(OSError):  # its user is gone
                report.send(NUMBER.pack(pid))
        for descriptor in descriptors[1:]:
            os.close(descriptor)


def _reap(reports: dict[int, socket.socket]) -> None:
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with reports.pop(pid) as report, suppress(OSError):
            report.send(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _become(request: Any, descriptors: list[int]) -> Callable[[], object]:
    """Makes of a fork the process that was asked for; what it has to run."""
    module, arguments, env, folder, numbers = request
    os.setsid()
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _place(numbers, descriptors)
    if 0 not in numbers:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
    os.environ.clear()
    os.environ.update(env)
    if folder:
        os.chdir(folder)
    sys.argv = [module, *arguments]
    _set_title([sys.executable, "-m", module, *arguments])
    main: Callable[[], object] = importlib.import_module(module).main
    return main


def _place(numbers: list[int], descriptors: list[int]) -> None:
    """Gives each descriptor its number; no other one is in the way then."""
    above = max([2, *numbers, *descriptors]) + 1
    aside = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in descriptors]
    for each in descriptors:
        os.close(each)
    for number, each in zip(numbers, aside, strict=True):
        os.dup2(each, number, inheritable=number <= 2)
        os.close(each)


def _set_title(command: list[str]) -> None:
    """What lists of processes show, as far as there is room: /proc/PID/cmdline."""
    with suppress(OSError):
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        start, end = (int(field) for field in stat.rpartition(")")[2].split()[45:47])
        title = b"\0".join(os.fsencode(part) for part in command)[: end - start - 1]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(title.ljust(end - start, b"\0"))


def fork() -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenBLAS's threads are no obstacle
        return os.fork()


def run_to_end(control: socket.socket, modules: Sequence[str]) -> NoReturn:
    """In a fork whose callers are not to be returned to."""
    status = 1
    try:
        main = serve(control, modules)
        if main is not None:
            main()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _main() -> Callable[[], object] | None:
    return serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])


if __name__ == "__main__":
    if (program := _main()) is not None:
        program()
