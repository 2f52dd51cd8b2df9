"""What a benchmark does to a deployment, as it was asked for."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from lengthwise.aio import AsyncClient
from lengthwise.client import Client
from lengthwise.settings import Retry, Timeout, Tls
from lengthwise.types import Model
from lengthwise_cli.bench.plan import PlannedRequest
from lengthwise_cli.bench.play import Player
from lengthwise_cli.bench.run import RequestResult, Run
from lengthwise_cli.errors import CommandError
from lengthwise_cli.options import CONNECT_SECONDS, TRIES, named
from lengthwise_cli.terminal import say


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests, and where they go."""

    plan: Sequence[PlannedRequest]
    seed: int
    max_in_flight: int
    timeout: float
    endpoints: list[str]
    model: str | None
    tls: Tls | None

    def run(self) -> tuple[Run, bool]:
        """Also whether it came to its end: Ctrl-C leaves what had been measured.

        Errors: CommandError, LengthwiseError, OSError.
        """
        with (
            named(self.endpoints),
            Client(
                self.endpoints,
                tls=self.tls,
                timeout=self._timeout,
                retry=TRIES,
                model=self.model,
            ) as client,
        ):
            model, statuses = client.model(), client.status().models
        (short_tokens,) = (each.short_tokens for each in statuses if each.model == model.name)
        plan = _fitting(self.plan, model)
        results, is_whole = asyncio.run(self._play(plan, model, short_tokens))
        if not results:
            raise CommandError("interrupted before any request had ended")
        return Run(tuple(results)), is_whole

    @property
    def _timeout(self) -> Timeout:
        """Errors: InvalidRequest."""
        return Timeout(total=self.timeout, connect=CONNECT_SECONDS)

    async def _play(
        self, plan: list[PlannedRequest], model: Model, short_tokens: int
    ) -> tuple[list[RequestResult], bool]:
        results: list[RequestResult] = []
        total = sum(1 for each in plan for _ in each.turns())
        progress = Progress(
            *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), disable=not sys.stderr.isatty(),
        )  # fmt: skip
        task = progress.add_task("requests", total=total)

        def on_end(result: RequestResult) -> None:
            results.append(result)
            progress.advance(task)

        retry = Retry(attempts=1)  # another try would hide what is measured
        client = AsyncClient(
            self.endpoints, tls=self.tls, timeout=self._timeout, retry=retry, model=model.name
        )
        with progress:
            async with client:
                player = Player(
                    client,
                    vocab_size=model.vocab_size,
                    short_tokens=short_tokens,
                    max_in_flight=self.max_in_flight,
                    seed=self.seed,
                    on_end=on_end,
                )
                playing = asyncio.create_task(player.play(plan))
                asyncio.get_running_loop().add_signal_handler(signal.SIGINT, playing.cancel)
                with contextlib.suppress(asyncio.CancelledError):  # by the handler alone
                    await playing
        return results, not playing.cancelled()


def _fitting(plan: Sequence[PlannedRequest], model: Model) -> list[PlannedRequest]:
    """Those that the context holds, to their last turn. Errors: CommandError: it holds none."""
    fitting = [
        each
        for each in plan
        if all(
            turn.prompt_tokens + turn.output_tokens <= model.context_length for turn in each.turns()
        )
    ]
    if not fitting:
        raise CommandError(
            f"no request fits the context of {model.name}: prompt and output together may have"
            f" {model.context_length:,} tokens"
        )
    if len(fitting) < len(plan):
        say(
            f"{len(plan) - len(fitting):,} of {len(plan):,} requests are left out: the context of"
            f" {model.name} has {model.context_length:,} tokens"
        )
    return fitting
