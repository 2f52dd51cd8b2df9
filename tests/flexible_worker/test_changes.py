"""The life of a change, over an engine and roles that do as a test says: what is refused, what ends
the process, and what waits for what."""

import asyncio
from dataclasses import dataclass, field

import pytest
from harness.waiting import eventually

from lengthwise_flexible_worker import app
from lengthwise_flexible_worker.app import FlexibleApplication, RoleChangeFailed
from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_policy.types import Role
from lengthwise_runtime.status import RoleRefused
from lengthwise_worker.endpoint import WorkerEndpoint


@dataclass
class Engine:
    """Free at once, unless set otherwise."""

    free: bool = True
    stopped: bool = False
    broken: asyncio.Event = field(default_factory=asyncio.Event)

    async def is_free(self) -> bool:
        return self.free

    async def failed(self) -> BaseException:
        await self.broken.wait()
        return RuntimeError("transfer has ended")

    async def stop(self) -> None:
        self.stopped = True


@dataclass
class Stage:
    """What happens, and how long each thing takes."""

    engine: Engine = field(default_factory=Engine)
    log: list[str] = field(default_factory=list)
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    thread_ends: bool = True
    address_taken: bool = False

    def worker(self, role: Role) -> type:
        stage = self

        class Worker:
            address = "127.0.0.1:1"

            def __init__(self, config: object, engine: object, endpoint: WorkerEndpoint) -> None:
                assert engine is stage.engine

            async def start(self) -> None:
                if stage.address_taken:
                    raise OSError("the address is taken")
                stage.log.append(f"{role} opens")

            async def drain(self) -> bool:
                stage.log.append(f"{role} drains")
                await stage.drained.wait()
                stage.log.append(f"{role} is gone")
                return stage.thread_ends

        return Worker


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()

    async def start_engine(_config: object) -> Engine:
        return stage.engine

    monkeypatch.setattr(app, "start_engine", start_engine)
    monkeypatch.setattr(app, "PrefillWorker", stage.worker("prefill"))
    monkeypatch.setattr(app, "DecodeWorker", stage.worker("decode"))
    return stage


async def _started(**config: float) -> FlexibleApplication:
    application = FlexibleApplication(
        FlexibleWorkerConfig(model="m", role="decode", metrics_listen="", **config)  # type: ignore[arg-type]
    )
    await application.start()
    return application


def _changes(application: FlexibleApplication, role: Role) -> float | None:
    registry = application._endpoint.registry
    return registry.get_sample_value("lengthwise_role_changes_total", {"role": role})


async def test_the_new_role_opens_when_the_old_one_is_gone(stage: Stage) -> None:
    application = await _started()
    assert [_changes(application, role) for role in ("prefill", "decode")] == [0, 0]
    assert application.set_role("prefill") == "decode"
    await eventually(lambda: stage.log[-1] == "decode drains")
    stage.drained.set()
    await eventually(lambda: stage.log[-1] == "prefill opens")
    assert stage.log == ["decode opens", "decode drains", "decode is gone", "prefill opens"]
    await eventually(lambda: _changes(application, "prefill") == 1)
    assert application.set_role("prefill") == "prefill"
    assert application.set_role("decode") == "prefill"
    await eventually(lambda: _changes(application, "decode") == 1)
    await application.drain()
    assert stage.engine.stopped


async def test_the_role_that_it_has_is_no_change(stage: Stage) -> None:
    application = await _started()
    assert application.set_role("decode") == "decode"
    stage.drained.set()
    await application.drain()
    assert stage.log == ["decode opens", "decode drains", "decode is gone"]


@pytest.mark.parametrize("wanted", ["prefill", "decode"])
async def test_nothing_is_accepted_while_it_changes(stage: Stage, wanted: Role) -> None:
    application = await _started()
    application.set_role("prefill")
    with pytest.raises(RoleRefused, match="changes its role already"):
        application.set_role(wanted)
    stage.drained.set()
    await application.drain()


async def test_nothing_is_accepted_while_it_drains(stage: Stage) -> None:
    application = await _started()
    draining = asyncio.create_task(application.drain())
    await eventually(lambda: stage.log[-1] == "decode drains")
    with pytest.raises(RoleRefused, match="draining"):
        application.set_role("prefill")
    stage.drained.set()
    await draining


async def test_a_drain_during_a_change_ends_it_with_the_old_role(stage: Stage) -> None:
    application = await _started()
    application.set_role("prefill")
    await eventually(lambda: stage.log[-1] == "decode drains")
    draining = asyncio.create_task(application.drain())
    await asyncio.sleep(0)
    stage.drained.set()
    await draining
    assert stage.log == ["decode opens", "decode drains", "decode is gone"]
    assert stage.engine.stopped
    assert _changes(application, "prefill") == 0


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        ({"thread_ends": False}, "the engine is still in a step"),
        ({"engine": Engine(free=False)}, "KV transfers still use the cache"),
        ({"address_taken": True}, "the address is taken"),
    ],
    ids=["step does not end", "transfer does not end", "address taken"],
)
async def test_a_change_that_cannot_end_ends_the_process(
    stage: Stage, trouble: dict[str, object], expected: str
) -> None:
    if "engine" in trouble:
        stage.engine = Engine(free=False)
    application = await _started()
    stage.thread_ends = bool(trouble.get("thread_ends", True))
    stage.address_taken = bool(trouble.get("address_taken", False))
    application.set_role("prefill")
    stage.drained.set()
    error = await asyncio.wait_for(application.failed(), 5)
    assert isinstance(error, RoleChangeFailed)
    assert str(error).startswith("the change from decode to prefill failed: ")
    assert expected in str(error)
    with pytest.raises(RoleRefused):
        application.set_role("prefill")
    await asyncio.wait_for(application.drain(), 5)
    assert stage.engine.stopped


async def test_a_drain_that_hangs_ends_the_process_in_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CHANGE_MARGIN_SECONDS", 0.1)
    application = await _started(drain_seconds=0.1, stall_seconds=0.1)
    application.set_role("prefill")
    error = await asyncio.wait_for(application.failed(), 5)
    assert str(error) == "the change from decode to prefill failed: not done within 0.3 s"
    await asyncio.wait_for(application.drain(), 5)
    assert stage.engine.stopped


async def test_an_engine_that_ends_for_good_ends_the_process_too(stage: Stage) -> None:
    application = await _started()
    stage.engine.broken.set()
    assert str(await asyncio.wait_for(application.failed(), 5)) == "transfer has ended"
    stage.drained.set()
    await application.drain()
