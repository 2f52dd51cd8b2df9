"""The commands that talk to a router: what they print, where, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from client.scripted_router import Responses, Router, a_life, fail, first, last, words

from lengthwise import InvalidRequest
from lengthwise_cli.main import main
from lengthwise_wire.v1 import inference_pb2

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process and returns its exit code."""

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is not the command's

    def run(*arguments: str, stdin: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["lengthwise", *arguments])
        monkeypatch.setattr(sys, "stdin", StringIO(stdin))
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return run


def hello(request: inference_pb2.GenerateRequest, _: object) -> Responses:
    yield first(request)
    yield words(0, "Hello ", "world.")
    yield last(2)


def test_generate_prints_the_text_alone(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    router.scripts.append(hello)
    arguments = ("--max-tokens", "7", "--min-tokens", "3", "--temperature", "0", "--seed", "5")
    assert (
        run(
            "generate", "hi", "--endpoint", router.address, *arguments, "--stop", "A", "--stop", "B"
        )
        == 0
    )
    assert capsys.readouterr() == ("Hello world.\n", "")
    request = router.requests[0]
    assert request.prompt.text == "hi"
    assert request.max_tokens == 7
    assert request.sampling.min_tokens == 3
    assert request.sampling.HasField("temperature")
    assert request.sampling.temperature == 0
    assert request.sampling.seed == 5
    assert list(request.stop.strings) == ["A", "B"]
    assert not request.sampling.HasField("top_p")


def test_generate_reads_the_prompt_from_standard_input(router: Router, run: Run) -> None:
    router.scripts.append(hello)
    assert run("generate", "-", "-e", router.address, stdin="a\nb") == 0
    assert router.requests[0].prompt.text == "a\nb"


def test_statistics_go_to_standard_error(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    router.scripts.append(hello)
    assert run("generate", "hi", "-e", router.address, "--stats") == 0
    output = capsys.readouterr()
    assert output.out == "Hello world.\n"
    assert output.err.startswith("3 prompt tokens (1 cached), 2 output tokens")
    assert "0.25 s in all · 1 retries · seed 99 · stop" in output.err
    assert output.err.endswith(f" · request {router.requests[0].request_id}\n")


def test_json_is_one_whole_value(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    router.scripts.append(hello)
    assert run("generate", "hi", "-e", router.address, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["text"] == "Hello world."
    assert [token["id"] for token in value["tokens"]] == [1000, 1001]
    assert value["usage"] == {"prompt_tokens": 3, "output_tokens": 2, "cached_prompt_tokens": 1}
    assert value["request_id"] == router.requests[0].request_id


def test_an_error_is_one_line_and_exit_code_1(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        fail(context, InvalidRequest("prompt: not for this model"))
        yield from ()

    router.scripts.append(refuse)
    assert run("generate", "hi", "-e", router.address) == 1
    assert capsys.readouterr() == ("", "lengthwise: prompt: not for this model\n")


@pytest.mark.slow
def test_no_router_is_one_line_and_exit_code_1(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("model", "-e", "127.0.0.1:1") == 1
    output = capsys.readouterr()
    assert output.err.startswith("lengthwise: no router answers at 127.0.0.1:1: nothing listens")
    assert "`lengthwise up`" in output.err
    assert output.err.count("\n") == 1


def test_chat_remembers_what_was_said(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    router.scripts.extend([hello, hello])
    assert run("chat", "--system", "Be brief.", "-e", router.address, stdin="hi\n\nbye\n") == 0
    assert capsys.readouterr().out == "Hello world.\nHello world.\n"
    messages = router.requests[1].prompt.conversation.messages
    assert [(message.role, message.content) for message in messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
        ("assistant", "Hello world."),
        ("user", "bye"),
    ]


@pytest.mark.parametrize(
    ("arguments", "returns"),
    [
        pytest.param((), True, id="a conversation goes on"),
        pytest.param(("hi",), False, id="one message does not"),
    ],
)
def test_chat_says_whether_the_conversation_returns(
    router: Router, run: Run, arguments: tuple[str, ...], returns: bool
) -> None:
    router.scripts.append(hello)
    assert run("chat", *arguments, "-e", router.address, stdin="hi\n") == 0
    assert router.requests[0].HasField("conversation_returns")
    assert router.requests[0].conversation_returns == returns


def test_priority_tenant_and_name_are_options(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    router.scripts.append(hello)
    arguments = (
        "-e",
        router.address,
        "--priority",
        "-5",
        "--tenant",
        "research",
        "--request-id",
        "r1",
    )
    assert run("generate", "hi", *arguments) == 0
    assert router.requests[0].priority == -5
    assert router.requests[0].tenant == "research"
    assert router.requests[0].request_id == "r1"
    capsys.readouterr()
    assert run("generate", "hi", "--priority", "101") == 1
    message = "lengthwise: priority: got 101, expected an integer in [-100, 100]\n"
    assert capsys.readouterr().err == message


def test_what_the_text_must_be_is_an_option(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    given = (("--json-schema", str(schema)), ("--regex", "a+"), ("--choice", "y", "--choice", "n"))
    for options in given:
        router.scripts.append(hello)
        assert run("generate", "hi", "-e", router.address, *options) == 0
    of_schema, of_regex, of_choice = (request.constraint for request in router.requests)
    assert of_schema.json_schema == '{"type": "object"}'
    assert of_regex.regex == "a+"
    assert list(of_choice.choice.texts) == ["y", "n"]
    capsys.readouterr()
    assert run("generate", "hi", "--json-schema", str(tmp_path / "none")) == 1
    assert capsys.readouterr().err.endswith("none cannot be read: No such file or directory\n")
    schema.write_bytes(b"\xff")
    assert run("generate", "hi", "--json-schema", str(schema)) == 1
    assert capsys.readouterr().err.endswith("schema.json is not UTF-8\n")


def test_chat_answers_one_message(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    router.scripts.append(hello)
    assert run("chat", "hi", "-e", router.address) == 0
    assert capsys.readouterr().out == "Hello world.\n"


def test_tokenize_prints_ids(router: Router, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tokenize", "ab", "-e", router.address) == 0
    assert run("tokenize", "-", "--json", "-e", router.address, stdin="ab") == 0
    assert capsys.readouterr().out == "97 98\n[97, 98]\n"


def test_model_is_described(router: Router, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model", "-e", router.address) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "toy"]
    assert any(line.split() == ["default", "temperature", "0.7"] for line in lines)
    assert run("model", "--json", "-e", router.address) == 0
    assert json.loads(capsys.readouterr().out)["context_length"] == 128


def test_explain_prints_predictions_beside_what_came_of_them(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    router.explanations["r1"] = a_life("r1")
    assert run("explain", "r1", "-e", router.address) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert ["request", "r1"] in rows
    assert "prompt 100 (96 cached, 4 computed), output 20 of at most 64" in output
    assert ["admission", "after", "1.5", "ms:", "free:", "1", "of", "8"] in rows
    assert ["chosen", "p1", "→", "d1", "4", "1.0", "2.0", "0.5", "3.5"] in rows
    assert ["d2", "alone", "100", "0.0", "40.0", "0.0", "40.0"] in rows
    assert ["actual", "p1", "→", "d1", "4", "1.2", "2.4", "6.0"] in rows
    assert "end         OK after 0.100 s; first token after 6.0 ms" in output
    assert "\x1b" not in output, "a reason may not command the terminal"


def test_explain_prints_json(router: Router, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    router.explanations["r1"] = a_life("r1")
    assert run("explain", "r1", "--json", "-e", router.address) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["attempts"][0]["candidates"][0]["residual_tokens"] == 4
    assert value["end"]["timings"]["time_to_first_token_seconds"] == 0.006


def test_explaining_an_unknown_request_is_one_line_and_exit_code_1(
    router: Router, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", "r1", "-e", router.address) == 1
    assert capsys.readouterr().err == "lengthwise: request_id: got 'r1', expected another\n"


@pytest.mark.slow
def test_interrupting_is_quiet_and_comes_after_what_was_printed(router: Router) -> None:
    def slow(request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        yield words(0, "Hello ")
        router.freeze()

    router.scripts.append(slow)
    command = [sys.executable, "-m", "lengthwise_cli.main", "generate", "hi", "-e", router.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 100) == b"Hello ", "text came late"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    assert router.ended.wait(5)
