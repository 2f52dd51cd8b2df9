"""A conversation outlives what goes wrong in one of its turns."""

import json
from typing import Any

import pytest
from cli.conftest import Run, Terminal
from client.scripted_router import Responses, Router, fail, first, last, words

from lengthwise import InvalidRequest, PromptTooLong
from lengthwise_wire.v1 import common_pb2, inference_pb2

Request = inference_pb2.GenerateRequest


def hello(request: Request, _: object) -> Responses:
    yield first(request)
    yield words(0, "Hello ", "world.")
    yield last(2)


def said(request: Request) -> list[tuple[str, str]]:
    return [(each.role, each.content) for each in request.prompt.conversation.messages]


def _amid_an_answer(router: Router) -> Terminal:
    """Of a conversation: it stops after «Once upon»; the next answer is `hello`."""

    def endless(request: Request, _: object) -> Responses:
        yield first(request)
        yield words(0, "Once ", "upon ")
        router.freeze()

    router.scripts.extend([endless, hello])
    terminal = Terminal("chat", "-e", router.address)
    terminal.read_until("> ")
    terminal.type("a story\n")
    terminal.read_until("upon ")
    return terminal


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_and_keeps_the_conversation(router: Router) -> None:
    terminal = _amid_an_answer(router)
    terminal.type("\x03")
    terminal.read_until("upon ^C\r\n> ")
    terminal.type("half a line")
    terminal.read_until("half a line")
    terminal.interrupt_until("> ")
    terminal.type("and now?\n")
    # Typed before the command reads its next line, it would be lost.
    terminal.read_until("Hello world.\r\n> ")
    terminal.type("\x04")
    assert terminal.finish() == 0
    assert said(router.requests[1]) == [
        ("user", "a story"), ("assistant", "Once upon "), ("user", "and now?")
    ]  # fmt: skip
    assert "Traceback" not in terminal.output


@pytest.mark.slow
def test_ctrl_c_again_and_again_ends_an_answer_and_nothing_else(router: Router) -> None:
    terminal = _amid_an_answer(router)
    for _ in range(5):
        terminal.type("\x03")
    terminal.read_until("^C\r\n> ")
    terminal.type("and now?\n")
    terminal.read_until("Hello world.\r\n> ")
    terminal.type("\x04")
    assert terminal.finish() == 0


@pytest.mark.slow
def test_an_error_ends_a_turn_alone(router: Router) -> None:
    def refuse(request: Request, context: Any) -> Responses:
        fail(context, InvalidRequest("prompt: not for this model"))
        yield from ()

    router.scripts.extend([refuse, hello])
    terminal = Terminal("chat", "-e", router.address)
    terminal.read_until("> ")
    terminal.type("first\n")
    terminal.read_until("lengthwise: prompt: not for this model")
    terminal.type("second\n")
    # Typed before the command reads its next line, it would be lost.
    terminal.read_until("Hello world.\r\n> ")
    terminal.type("\x04")
    assert terminal.finish() == 0
    assert said(router.requests[1]) == [("user", "second")]


@pytest.mark.slow
def test_an_answer_has_a_limit_and_it_is_told(router: Router, run: Run) -> None:
    def cut(request: Request, _: object) -> Responses:
        yield first(request)
        yield words(0, "Hello")
        end = last(1)
        end.finish_reason = common_pb2.FINISH_REASON_LENGTH
        yield end

    router.scripts.append(cut)
    result = run("chat", "hi", "-e", router.address)
    assert result.returncode == 0
    assert router.requests[0].max_tokens == 512
    assert result.stderr == "(the answer ended at 512 tokens; --max-tokens sets the limit)\n"


@pytest.mark.slow
def test_what_no_longer_fits_is_made_to(router: Router, run: Run) -> None:
    def too_long(request: Request, context: Any) -> Responses:
        fail(context, PromptTooLong("prompt: too long"))
        yield from ()

    router.scripts.extend([hello, too_long, too_long, hello])
    result = run("chat", "-e", router.address, stdin="one\ntwo\n")
    assert result.returncode == 0
    assert result.stdout == "Hello world.\nHello world.\n"
    assert "the oldest turn no longer fits" in result.stderr
    first_try, second_try, third_try = router.requests[1:]
    assert first_try.max_tokens == 512
    assert not second_try.HasField("max_tokens")
    assert said(second_try) == [("user", "one"), ("assistant", "Hello world."), ("user", "two")]
    assert said(third_try) == [("user", "two")]


@pytest.mark.slow
def test_a_limit_that_was_asked_for_is_kept(router: Router, run: Run) -> None:
    def too_long(request: Request, context: Any) -> Responses:
        fail(context, PromptTooLong("prompt: too long"))
        yield from ()

    router.scripts.append(too_long)
    result = run("chat", "hi", "--max-tokens", "9", "-e", router.address)
    assert (result.returncode, result.stderr) == (1, "lengthwise: prompt: too long\n")
    assert router.requests[0].max_tokens == 9


@pytest.mark.slow
def test_sampling_options_and_json(router: Router, run: Run) -> None:
    router.scripts.append(hello)
    arguments = ("--top-p", "0.5", "--top-k", "3", "--stop", "A", "--timeout", "9", "--json")
    result = run("chat", "hi", *arguments, "-e", router.address)
    assert json.loads(result.stdout)["text"] == "Hello world."
    (request,) = router.requests
    assert (request.sampling.top_p, request.sampling.top_k) == (0.5, 3)
    assert list(request.stop.strings) == ["A"]
