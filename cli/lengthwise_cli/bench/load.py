"""What a benchmark does to a deployment, as it was asked for."""

import asyncio
import contextlib
import math
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from lengthwise.aio import AsyncClient
from lengthwise.client import Client
from lengthwise.settings import Retry, Timeout, Tls
from lengthwise.types import Model
from lengthwise_cli.bench.plan import PlannedRequest, PromptLengths, read_trace, synthetic
from lengthwise_cli.bench.play import Player
from lengthwise_cli.bench.run import RequestResult, Run
from lengthwise_cli.errors import CommandError
from lengthwise_cli.options import CONNECT_SECONDS, TRIES, named
from lengthwise_cli.terminal import say

DEFAULT_RATE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests, and where they go. `rate` None: as the trace says, or 5 a second."""

    rate: float | None
    num_requests: int
    lengths: list[str]
    trace: Path | None
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
        plan = self._plan()
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
        plan = _fitting(plan, model)
        results, is_whole = asyncio.run(self._play(plan, model, short_tokens))
        if not results:
            raise CommandError("interrupted before any request had ended")
        return Run(tuple(results)), is_whole

    @property
    def _timeout(self) -> Timeout:
        """Errors: InvalidRequest."""
        return Timeout(total=self.timeout, connect=CONNECT_SECONDS)

    def _plan(self) -> list[PlannedRequest]:
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise CommandError(f"--rate: got {self.rate:g}, expected requests a second above 0")
        if self.trace is not None:
            return read_trace(
                self.trace, rate=self.rate, num_requests=self.num_requests, seed=self.seed
            )
        kinds = [PromptLengths.parse(text) for text in self.lengths]
        rate = DEFAULT_RATE if self.rate is None else self.rate
        return synthetic(kinds, rate=rate, num_requests=self.num_requests, seed=self.seed)

    async def _play(
        self, plan: list[PlannedRequest], model: Model, short_tokens: int
    ) -> tuple[list[RequestResult], bool]:
        results: list[RequestResult] = []
        shows_progress = sys.stderr.isatty()

        def on_end(result: RequestResult) -> None:
            results.append(result)
            if shows_progress:
                print(f"\r{len(results):,} of {len(plan):,} ended", end="", file=sys.stderr)

        retry = Retry(attempts=1)  # another try would hide what is measured
        async with AsyncClient(
            self.endpoints, tls=self.tls, timeout=self._timeout, retry=retry, model=model.name
        ) as client:
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
        if shows_progress:
            print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
        return results, not playing.cancelled()


def _fitting(plan: list[PlannedRequest], model: Model) -> list[PlannedRequest]:
    """Those that the context holds. Errors: CommandError where it holds none."""
    fitting = [
        each for each in plan if each.prompt_tokens + each.output_tokens <= model.context_length
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
