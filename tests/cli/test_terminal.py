"""Every command works at any width, without colour, in ASCII, and into a pipe that is closed."""

import signal
import subprocess
from importlib.metadata import version

import pytest
from cli.conftest import COMMAND, Run, Terminal
from client.scripted_router import Responses, Router, a_life, first, last, words
from rich.console import Console

from lengthwise_cli.terminal import Column, fitted, harmless
from lengthwise_wire.v1 import inference_pb2

Request = inference_pb2.GenerateRequest


def signs(request: Request, _: object) -> Responses:
    yield first(request)
    yield words(0, "é → \U0001f600\x1b[31m\n")
    yield last(1)


def shown(width: int) -> list[str]:
    """The cells of the only row."""
    columns = [Column("name", is_number=False), Column("rare", rank=2), Column("often", rank=1)]
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(fitted(columns, [("a-long-name", "1", "22")], console))
    return [line.split() for line in capture.get().splitlines()][1]


def test_the_columns_that_matter_least_leave_first() -> None:
    assert shown(80) == ["a-long-name", "1", "22"]
    assert shown(20) == ["a-long-name", "22"]
    assert shown(12) == ["a-long-name"]


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert harmless("a\x1b[31m\x07b\n\tc\x9b") == "a·[31m·b\n\tc·"
    assert harmless("\U0001f469\u200d\U0001f467") == "\U0001f469\u200d\U0001f467"


@pytest.mark.slow
def test_ascii_output_is_escaped_and_no_traceback(router: Router, run: Run) -> None:
    router.scripts.append(signs)
    result = run("generate", "é", "--stats", "-e", router.address, PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout == "\\xe9 \\u2192 \\U0001f600\x1b[31m\n"
    assert result.stderr.isascii()
    assert "2 output tokens - first token" not in result.stdout


@pytest.mark.slow
def test_json_in_ascii_is_still_json(router: Router, run: Run) -> None:
    router.scripts.append(signs)
    result = run("generate", "é", "--json", "-e", router.address, PYTHONIOENCODING="ascii")
    assert "\\ud83d\\ude00" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("columns", [20, 80])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_explain_fits_and_says_where_the_time_went(
    router: Router, run: Run, columns: int, encoding: str
) -> None:
    router.explanations["r1"] = a_life("r1")
    result = run(
        "explain", "r1", "-e", router.address, COLUMNS=str(columns), PYTHONIOENCODING=encoding
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("decode") and line.endswith("94.0 ms") for line in lines)
    if columns == 80:
        assert any(line.startswith("chosen") and "p1" in line for line in lines)
        assert ("#" if encoding == "ascii" else "█") in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("columns", [20, 80])
def test_status_is_live_on_a_terminal_until_ctrl_c(router: Router, columns: int) -> None:
    terminal = Terminal("status", "-e", router.address, columns=columns)
    terminal.read_until("router")
    terminal.read_until("worker")
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert "Traceback" not in terminal.output


@pytest.mark.slow
def test_no_color_means_no_colour(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    router.explanations["r1"] = a_life("r1")
    terminal = Terminal("explain", "r1", "-e", router.address)
    assert terminal.finish() == 0
    assert "\x1b[3" not in terminal.output


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(router: Router) -> None:
    def much(request: Request, _: object) -> Responses:
        yield first(request)
        for index in range(2_000):
            yield words(index, "x" * 100 + "\n")
        yield last(2_000)

    router.scripts.append(much)
    command = [*COMMAND, "generate", "hi", "-e", router.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(30) == -signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_a_closed_standard_output_is_no_traceback(router: Router) -> None:
    router.scripts.append(signs)
    # By a shell: between fork and exec a child of this process would run gRPC's handlers.
    closed = ["sh", "-c", 'exec "$@" >&-', "sh"]
    command = [*closed, *COMMAND, "generate", "hi", "-e", router.address]
    result = subprocess.run(command, stderr=subprocess.PIPE, timeout=50, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.slow
def test_version_help_and_completion(run: Run) -> None:
    assert run("--version").stdout == f"lengthwise {version('lengthwise')}\n"
    assert "Commands:" in run("-h").stdout
    assert "--max-tokens" in run("generate", "-h").stdout
    completion = run(_LENGTHWISE_COMPLETE="source_bash", SHELL="/bin/bash")
    assert "complete" in completion.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("generate", "hi", "--foo"), "No such option: --foo", id="option"),
        pytest.param(("nosuch",), "No such command 'nosuch'", id="command"),
        pytest.param(("generate",), "Missing argument", id="argument"),
        pytest.param(("generate", "hi", "--seed", "x"), "valid integer", id="value"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_endpoint_may_come_from_the_environment(router: Router, run: Run) -> None:
    result = run("model", LENGTHWISE_ENDPOINT=f"{router.address} 127.0.0.1:1")
    assert result.stdout.startswith("name")


@pytest.mark.slow
def test_a_deadline_that_passed_is_a_clear_sentence(router: Router, run: Run) -> None:
    def never(request: Request, _: object) -> Responses:
        yield first(request)
        router.freeze()

    router.scripts.append(never)
    result = run("generate", "hi", "--timeout", "0.2", "-e", router.address)
    assert result.returncode == 1
    assert "did not finish" in result.stderr
    assert "Stream removed" not in result.stderr


@pytest.mark.slow
def test_standard_input_that_is_no_utf_8_is_one_line(router: Router) -> None:
    result = subprocess.run(
        [*COMMAND, "generate", "-", "-e", router.address],
        input=b"caf\xe9", capture_output=True, timeout=50, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith(b"lengthwise: prompt: got a lone surrogate")
    assert result.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_a_message_is_broken_between_words_on_a_terminal_and_one_line_elsewhere(run: Run) -> None:
    arguments = ("up", "--model", "/no/folder")
    line = run(*arguments).stderr
    assert line.count("\n") == 1
    assert len(line) > 100
    terminal = Terminal(*arguments)
    assert terminal.finish() == 1
    rows = terminal.output.split("\r\n")
    assert max(map(len, rows)) <= 80
    assert " ".join(row.strip() for row in rows).split() == line.split()


@pytest.mark.slow
def test_a_file_that_is_not_there_is_named(run: Run) -> None:
    refused = run("bench", "--from", "no.csv")
    assert refused.stderr == "lengthwise: no.csv: No such file or directory\n"
