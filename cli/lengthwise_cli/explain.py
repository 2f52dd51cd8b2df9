"""The command that explains the life of a request: what was predicted beside what came of it."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from typer import Argument

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise.explanation import ExplainedAttempt, ExplainedCandidate, Explanation
from lengthwise_cli import options as option
from lengthwise_cli import timeline
from lengthwise_cli.requests import as_json_text
from lengthwise_cli.status.view import short_id
from lengthwise_cli.terminal import (
    Column,
    fit_encoding,
    fitted,
    harmless,
    knows_unicode,
    make_console,
)

CANDIDATE = (
    Column("", is_number=False, rank=1),
    Column("workers", is_number=False),
    Column("compute", rank=3),
    Column("queue", rank=2),
    Column("prefill", rank=2),
    Column("transfer", rank=4),
    Column("TTFT"),
)
"""Tokens to compute; the rest in milliseconds."""


def explain(
    request_id: Annotated[str, Argument(help="As --stats and --json print it.")],
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    model: option.ModelName = None,
    tenant: option.Tenant = None,
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Tell where a request was sent and why, and where its time went."""
    with option.open_client(
        endpoint, tls_authority, tls_certificate, tls_private_key, model
    ) as client:
        explanation = client.explain(request_id, tenant=tenant)
    if as_json:
        print(as_json_text(dataclasses.asdict(explanation)))
        return
    console = make_console()
    for part in _life(explanation, console):
        console.print(part)


def _life(explained: Explanation, console: Console) -> Iterator[RenderableType]:
    def line(name: str, text: str) -> Table:
        grid = Table.grid()
        grid.add_column(width=timeline.NAME_WIDTH, style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(name), Text(fit_encoding(_clean(text), console.file)))
        return grid

    yield line("request", explained.request_id)
    yield line("model", explained.model)
    yield line("tokens", _tokens(explained))
    yield line("class", f"{explained.length_class}, priority {explained.priority}")
    yield line("admission", _timed(explained.admission_seconds, explained.admission_reason))
    first_token = None
    if explained.end is not None:
        first_token = explained.end.timings.time_to_first_token_seconds or None
    for number, attempt in enumerate(explained.attempts, 1):
        yield ""
        yield line(f"attempt {number}", _where(attempt.prefill_worker, attempt.decode_worker))
        yield line("placement", attempt.placement_reason)
        if attempt.decode_worker:
            yield line("reserved", _timed(attempt.reserve_seconds, attempt.reserve_reason))
        yield line("prefill", attempt.prefill_reason or "no answer")
        yield line("cached", _cached(attempt))
        if attempt.failure:
            yield line("failed", attempt.failure)
        is_only = len(explained.attempts) == 1
        actual = _actual(attempt, explained.prompt_tokens, first_token if is_only else None)
        yield ""
        yield _predictions(attempt, actual, console)
    yield ""
    yield line("end", _end(explained))
    block = "█" if knows_unicode(console.file) else "#"
    yield from timeline.draw(timeline.spans_of(explained), console.width, block)


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


def _predictions(attempt: ExplainedAttempt, actual: tuple[str, ...], console: Console) -> Table:
    """The candidates, the chosen one marked; beneath, what it was in fact."""
    rows: list[tuple[str | Text, ...]] = [
        (
            "chosen" if candidate == attempt.chosen else "",
            _where(short_id(candidate.prefill_worker, 4), short_id(candidate.decode_worker, 4)),
            *_predicted(candidate),
        )
        for candidate in attempt.candidates
    ]
    where = _where(short_id(attempt.prefill_worker, 4), short_id(attempt.decode_worker, 4))
    rows.append(tuple(Text(_clean(cell), "bold") for cell in ("actual", where, *actual)))
    return fitted(CANDIDATE, rows, console)


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


def _clean(text: str) -> str:
    return harmless(text.replace("\n", " "))
