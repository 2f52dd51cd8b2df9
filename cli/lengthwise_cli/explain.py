"""The command that explains the life of a request: what was predicted beside what came of it."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Annotated

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer import Argument

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise.explanation import ExplainedAttempt, ExplainedCandidate, Explanation
from lengthwise_cli import options as option

WIDTH_WITHOUT_TERMINAL = 160
"""Characters a line, where the output goes to a file or another program."""


def explain(
    request_id: Annotated[str, Argument(help="As --stats and --json print it.")],
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    tenant: option.Tenant = None,
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Tell the life of a request: where it was sent and why, and where its time went."""
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        explanation = client.explain(request_id, tenant=tenant)
    if as_json:
        print(json.dumps(dataclasses.asdict(explanation), ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    for part in _life(explanation):
        console.print(part)


def _life(explained: Explanation) -> Iterator[RenderableType]:
    yield _line("request", explained.request_id)
    yield _line("model", explained.model)
    yield _line("tokens", _tokens(explained))
    yield _line("class", f"{explained.length_class}, priority {explained.priority}")
    yield _line("admission", _timed(explained.admission_seconds, explained.admission_reason))
    first_token = None
    if explained.end is not None:
        first_token = explained.end.timings.time_to_first_token_seconds or None
    for number, attempt in enumerate(explained.attempts, 1):
        yield ""
        yield _line(f"attempt {number}", _where(attempt.prefill_worker, attempt.decode_worker))
        yield _line("placement", attempt.placement_reason)
        is_only = len(explained.attempts) == 1
        actual = _actual(attempt, explained.prompt_tokens, first_token if is_only else None)
        yield Padding(_predictions(attempt, actual), (0, 0, 0, 12), expand=False)
        if attempt.decode_worker:
            yield _line("reserved", _timed(attempt.reserve_seconds, attempt.reserve_reason))
        yield _line("prefill", attempt.prefill_reason or "no answer")
        yield _line("cached", _cached(attempt))
        if attempt.failure:
            yield _line("failed", attempt.failure)
    yield ""
    yield _line("end", _end(explained))


def _tokens(explained: Explanation) -> str:
    cached = explained.end.cached_prompt_tokens if explained.end is not None else 0
    computed = explained.prompt_tokens - cached
    return (
        f"prompt {explained.prompt_tokens} ({cached} cached, {computed} computed),"
        f" output {explained.output_tokens} of at most {explained.max_tokens}"
    )


def _cached(attempt: ExplainedAttempt) -> str:
    places = []
    if attempt.prefill_worker:
        places.append(f"{attempt.cached_tokens_prefill} tokens at the prefill worker")
    if attempt.decode_worker:
        places.append(f"{attempt.cached_tokens_decode} tokens at the decode worker")
    return ", ".join(places)


def _actual(
    attempt: ExplainedAttempt, prompt_tokens: int, first_token_seconds: float | None
) -> tuple[str, ...]:
    """What became of the predictions. Of several attempts none has a first token of its own, and
    later ones compute more than the prompt."""
    computed = first_token = ""
    if first_token_seconds is not None:
        at_prefill = bool(attempt.prefill_worker)
        cached = attempt.cached_tokens_prefill if at_prefill else attempt.cached_tokens_decode
        computed = str(max(prompt_tokens - cached, 1))
        first_token = _milliseconds(first_token_seconds)
    queue, prefill = _milliseconds(attempt.queue_seconds), _milliseconds(attempt.prefill_seconds)
    return computed, queue, prefill, "", first_token


def _predictions(attempt: ExplainedAttempt, actual: tuple[str, ...]) -> Table:
    """The candidates, the chosen one marked; beneath, what it was in fact. In milliseconds."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("workers", overflow="fold")
    for name in ("computed tokens", "queue ms", "prefill ms", "transfer ms", "first token ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for candidate in attempt.candidates:
        table.add_row(
            "chosen" if candidate == attempt.chosen else "",
            _clean(_where(candidate.prefill_worker, candidate.decode_worker)),
            *_predicted(candidate),
        )
    table.add_row(
        "actual",
        _clean(_where(attempt.prefill_worker, attempt.decode_worker)),
        *actual,
        style="bold",
    )
    return table


def _predicted(candidate: ExplainedCandidate) -> tuple[str, ...]:
    return (
        str(candidate.residual_tokens),
        _milliseconds(candidate.queue_seconds),
        _milliseconds(candidate.prefill_seconds),
        _milliseconds(candidate.transfer_seconds),
        _milliseconds(candidate.time_to_first_token_seconds),
    )


def _end(explained: Explanation) -> str:
    if explained.end is None:
        return "not yet"
    timings = explained.end.timings
    return (
        f"{explained.end.code} after {timings.total_seconds:.3f} s; first token after"
        f" {_milliseconds(timings.time_to_first_token_seconds)} ms, then"
        f" {_milliseconds(timings.time_per_output_token_seconds)} ms per token;"
        f" {timings.retries} retries, {explained.end.preemptions} preemptions"
    )


def _where(prefill_worker: str, decode_worker: str) -> str:
    if not prefill_worker:
        return f"{decode_worker} alone"
    return f"{prefill_worker} → {decode_worker}" if decode_worker else f"{prefill_worker} alone"


def _timed(seconds: float, reason: str) -> str:
    return f"after {_milliseconds(seconds)} ms: {reason or 'no reason given'}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _line(name: str, text: str) -> Text:
    return Text.assemble((f"{name:<12}", "bold"), _clean(text))


def _clean(text: str) -> Text:
    """Without what would command the terminal: parts of it are others' texts."""
    return Text("".join(character if character.isprintable() else "·" for character in text))
