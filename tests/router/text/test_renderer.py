"""The process that renders chat templates: bounded in time and memory, replaced when it ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from harness.waiting import eventually

from lengthwise_router.text.sandbox import sandbox as module
from lengthwise_router.text.sandbox.renderer import Renderer
from lengthwise_router.text.sandbox.template_process import TemplateSetup
from lengthwise_runtime.config import ConfigError
from lengthwise_wire.errors import InternalError, InvalidRequest, Overloaded
from lengthwise_wire.v1 import inference_pb2

ECHO = (
    "{% for m in messages %}{% if m.content == 'loop' %}{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}{% elif m.content == 'grow' %}"
    "{{ (m.role * 150000000)|length }}{% elif m.content == 'power' %}"
    "{{ ((8 + messages|length) ** 99999999) % 7 }}{% elif m.content == 'list' %}"
    "{{ ([messages] * 500000000)|length }}{% elif m.content == 'half' %}{{ '\\ud800' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def conversation(content: str) -> inference_pb2.Conversation:
    return inference_pb2.Conversation(
        messages=[inference_pb2.ChatMessage(role="user", content=content)]
    )


def setup(template: str) -> TemplateSetup:
    return TemplateSetup(template=template, special_tokens={}, max_characters=1 << 20)


Start = Callable[[str], Awaitable[Renderer]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[tuple[Renderer, asyncio.Task[None]]] = []

    async def start(template: str) -> Renderer:
        renderer = Renderer(setup(template), max_waiting=4)
        await renderer.start()
        started.append((renderer, asyncio.create_task(renderer.run())))
        return renderer

    yield start
    for renderer, running in started:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await renderer.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("grow", "more than 256 MiB", id="a long text"),
        pytest.param("list", "more than 256 MiB", id="a long list"),
        pytest.param("half", "is no text", id="half a character"),
        pytest.param("x" * (2 << 20), "more than 1048576 characters", id="a long answer"),
        pytest.param("loop", "more than 1 s", id="endless loops", marks=pytest.mark.slow),
        pytest.param("power", "more than 1 s", id="a power", marks=pytest.mark.slow),
    ],
)
async def test_what_a_template_may_take_is_bounded(start: Start, content: str, told: str) -> None:
    renderer = await start(ECHO)
    with pytest.raises(InvalidRequest, match=told) as caught:
        await renderer.render(conversation(content))
    assert str(caught.value).startswith("prompt.conversation: ")
    assert await renderer.render(conversation("fine")) == "fine"


async def test_a_process_that_is_killed_is_replaced(start: Start) -> None:
    renderer = await start(ECHO)
    assert renderer._process is not None
    os.kill(renderer._process.pid, signal.SIGKILL)
    texts = [renderer.render(conversation(text)) for text in ("one", "two", "three")]
    answers = await asyncio.gather(*texts, return_exceptions=True)
    assert answers[1:] == ["two", "three"]  # the first may have met it dying


@pytest.mark.slow
async def test_a_process_that_is_frozen_is_replaced(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    renderer = await start(ECHO)
    assert renderer._process is not None
    os.kill(renderer._process.pid, signal.SIGSTOP)
    with pytest.raises(InvalidRequest):
        await renderer.render(conversation("one"))
    monkeypatch.undo()
    assert await renderer.render(conversation("two")) == "two"


async def test_a_process_that_cannot_be_started_costs_this_conversation(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    renderer = await start(ECHO)
    await renderer.close()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", refuse)
        with pytest.raises(InternalError, match="does not start"):
            await renderer.render(conversation("hello"))
    assert await renderer.render(conversation("hello")) == "hello"


async def test_conversations_whose_callers_have_gone_are_not_rendered(start: Start) -> None:
    renderer = await start(ECHO)
    waiting = [renderer.render(conversation(text)) for text in "abcd"]
    with pytest.raises(Overloaded, match=r"4 of .* wait"):
        renderer.render(conversation("e"))
    for gone in waiting[:3]:
        gone.cancel()
    assert await waiting[3] == "d"
    await eventually(lambda: not renderer._waiting_bytes)


@pytest.mark.parametrize("template", ["{% for %}", "{{ 1 | no_such_filter }}"])
async def test_a_template_that_does_not_compile_is_the_operators_error(template: str) -> None:
    renderer = Renderer(setup(template), max_waiting=1)
    with pytest.raises(ConfigError, match="does not compile"):
        await renderer.start()
    await renderer.close()


async def test_the_process_ends_with_its_router(start: Start) -> None:
    renderer = await start(ECHO)
    process = renderer._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0
