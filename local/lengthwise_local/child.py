"""Runs a module as `python -m` would, tied to the life of the process that started it.

Standard input is the lifeline: only the starter holds its other end, so it ends when the starter
does, however that died. Then this process and everything it started are killed. A parent-death
signal would not do: it is sent when the starting *thread* ends.
"""

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    threading.Thread(target=_die_with_starter, name="lifeline", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with_starter() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
