"""What a step of the decode loop takes where the host has work between steps: launched one after
the other, and ahead. The toy's device takes 5 ms for a step, what is done with its tokens 2 ms.

Budget: ahead, at most a tenth more than without any work of the host.
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from rows import append_rows

from lengthwise_decode_worker.messages import Command, DecodeWork
from lengthwise_decode_worker.stepping.step_loop import DecodeLoop
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import RequestId
from lengthwise_runtime.mailbox import Mailbox

DEVICE_SECONDS = 0.005
HOST_SECONDS = 0.002
REQUESTS = 8
STEPS = 200


def load(*, ahead: bool) -> LoadedModel:
    with tempfile.TemporaryDirectory() as folder:
        write_toy_checkpoint(
            Path(folder), num_layers=1, step_seconds=DEVICE_SECONDS, asynchronous=ahead
        )
        return load_runner(Path(folder), device="cpu", num_blocks=256, kv_memory_bytes=0)


def work(number: int) -> DecodeWork:
    token_ids = [number] * 8
    return DecodeWork(
        reservation=Reservation(
            request_id=RequestId(f"request-{number}"),
            num_tokens=8,
            max_new_tokens=STEPS,
            deadline_at=time.monotonic() + 600,
            local=True,
        ),
        salt=b"",
        router_id="router",
        number=number,
        token_ids=token_ids,
        sampling=SamplingState(
            sampling=SamplingParameters(temperature=0.0), token_ids=token_ids, num_prompt_tokens=8
        ),
        stop_token_ids=frozenset(),
    )


def measure(model: LoadedModel, host_seconds: float) -> float:
    """Milliseconds from one step's tokens to the next's, median."""
    told_at: list[float] = []

    def publish(output: DecodeReport) -> None:
        if output.rows:
            told_at.append(time.perf_counter())
            # Without the interpreter's lock, which the toy's device needs and no GPU does.
            time.sleep(host_seconds)

    blocks = PrefixCache(model.cache.num_blocks)
    mailbox: Mailbox[Command] = Mailbox(100)
    scheduler = DecodeScheduler(
        DecodePolicy(), Objectives(), blocks, model.runner.layout.block_size, Random(1).random
    )
    loop = DecodeLoop(
        runner=model.runner,
        scheduler=scheduler,
        blocks=blocks,
        mailbox=mailbox,
        publish=publish,
    )
    for number in range(REQUESTS):
        mailbox.post(work(number))
    loop.step()
    while scheduler.num_running:
        loop.step()
    gaps = [later - earlier for earlier, later in pairwise(told_at)]
    return statistics.median(gaps) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {"step by step": load(ahead=False), "ahead": load(ahead=True)}
    cases = [("step by step", HOST_SECONDS), ("ahead", HOST_SECONDS), ("ahead", 0.0)]
    taken: dict[tuple[str, float], list[float]] = {case: [] for case in cases}
    for _ in range(arguments.repeats):
        for mode, host_seconds in cases:
            taken[mode, host_seconds].append(measure(models[mode], host_seconds))
    budget = 1.1 * statistics.median(taken["ahead", 0.0])
    rows = [
        {
            "mode": mode,
            "device_milliseconds": DEVICE_SECONDS * 1e3,
            "host_milliseconds": host_seconds * 1e3,
            "requests": REQUESTS,
            "steps": STEPS,
            "repeats": arguments.repeats,
            "median_milliseconds": f"{statistics.median(each):.2f}",
            "min_milliseconds": f"{min(each):.2f}",
            "max_milliseconds": f"{max(each):.2f}",
            "budget_milliseconds": f"{budget:.2f}" if mode == "ahead" and host_seconds else "",
        }
        for (mode, host_seconds), each in taken.items()
    ]
    for row in rows:
        print(*row.values())
    append_rows("stepping", rows)


if __name__ == "__main__":
    main()
