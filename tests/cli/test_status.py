"""Status shows what routers tell, of any number of workers, and routers that do not answer."""

import json

import pytest
from cli.conftest import Run
from client.scripted_router import Router
from rich.console import Console

from lengthwise import LatencyHistogram, ModelStatus, RouterStatus, WorkerQueue, WorkerState
from lengthwise_cli.status.view import Statuses, StatusView


def worker(index: int, **values: object) -> WorkerState:
    defaults: dict[str, object] = {
        "address": f"10.0.0.{index}:50051", "condition": "ready",
        "worker_id": f"decode-{index:012x}", "model": "m", "role": "decode", "length_class": "",
        "running_requests": 3, "queues": (WorkerQueue(length_class="", requests=2, tokens=9),),
        "blocks_total": 2_048, "blocks_free": 2_000, "block_size": 16,
        "prompt_tokens_total": 0, "output_tokens_total": 1_000,
    }  # fmt: skip
    return WorkerState(**{**defaults, **values})  # type: ignore[arg-type]


def model_status(name: str, counts: tuple[int, ...]) -> ModelStatus:
    latencies = LatencyHistogram(
        measure="ttft", length_class="short", upper_bounds=(0.1, 0.2), counts=counts
    )
    return ModelStatus(
        model=name, requests_in_flight=5, requests_waiting=1, short_tokens=256,
        latencies=(latencies,),
    )  # fmt: skip


def status(
    workers: tuple[WorkerState, ...],
    counts: tuple[int, ...] = (0, 4, 0),
    models: tuple[str, ...] = ("m",),
) -> RouterStatus:
    return RouterStatus(
        router_id="r", uptime_seconds=3_725.0, draining=False, requests_in_flight=5,
        requests_waiting=1, workers=workers, num_workers=len(workers),
        models=tuple(model_status(name, counts) for name in models),
    )  # fmt: skip


def drawn(*looks: Statuses, width: int = 80, since_start: bool = False) -> str:
    console = Console(width=width, height=24, color_system=None)
    view = StatusView(console)
    for look in looks:
        view.take(look)
    with console.capture() as capture:
        console.print(view.draw(since_start=since_start))
    return capture.get()


def test_workers_routers_and_latencies_are_shown() -> None:
    text = drawn({"a:1": status((worker(1),))}, since_start=True)
    rows = [line.split() for line in text.splitlines()]
    assert ["a:1", "m", "ready", "5", "1", "1:02:05"] in rows
    assert ["short", "4", "150", "190", "199"] in rows
    assert ["decode-000000", "ready", "3", "2", "48/2,048", "0"] in rows


def test_several_models_are_told_apart() -> None:
    workers = (worker(1, model="b"), worker(2, model="a"))
    text = drawn({"r:1": status(workers, models=("a", "b"))}, since_start=True, width=120)
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "short", "4", "150", "190", "199"] in rows
    assert ["b", "short", "4", "150", "190", "199"] in rows
    assert [row[0] for row in rows if "10.0.0." in " ".join(row)] == ["a", "b"]


def test_latencies_on_a_terminal_are_those_since_the_first_look() -> None:
    before, after = status((), counts=(9, 0, 0)), status((), counts=(9, 2, 0))
    rows = [line.split() for line in drawn({"a:1": before}, {"a:1": after}).splitlines()]
    assert ["short", "2", "150", "190", "199"] in rows


def test_routers_are_counted_together_and_their_workers_once() -> None:
    text = drawn({"a:1": status((worker(1),)), "b:1": status((worker(1),))}, since_start=True)
    assert text.count("decode-000000") == 1
    assert ["short", "8", "150", "190", "199"] in [line.split() for line in text.splitlines()]


def test_a_router_that_does_not_answer_has_its_row() -> None:
    text = drawn({"a:1": status((worker(1),)), "b:1": "no router answers at b:1"})
    assert any(line.startswith("b:1") and "no router" in line for line in text.splitlines())


@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_any_number_of_workers_fits_the_screen(width: int) -> None:
    text = drawn({"a:1": status(tuple(worker(index) for index in range(200)))}, width=width)
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    assert "more" in text


def test_a_worker_without_a_status_is_shown_by_its_address() -> None:
    text = drawn({"a:1": status((worker(1, worker_id="", role="", condition="lost"),))})
    assert any(line.split() == ["10.0.0.1:50051", "lost"] for line in text.splitlines())


@pytest.mark.slow
def test_the_command_prints_once_into_a_pipe_and_json_where_asked(router: Router, run: Run) -> None:
    shown = run("status", router.address)
    assert shown.returncode == 0, shown.stderr
    assert router.address in shown.stdout
    value = json.loads(run("status", "--json", "-e", router.address).stdout)
    assert [each["model"] for each in value[router.address]["models"]] == ["toy"]
