"""The decode loop over a toy, stepped by hand, in this process."""

import random
import time
from collections.abc import Callable, Sequence

from harness.block_integrity import check_cache
from harness.toy_oracle import toy_next_token

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_decode_worker.messages import Command, DecodeWork
from lengthwise_decode_worker.stepping.step_loop import DecodeLoop
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_engine.loaded_model import LoadedModel
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_policy.decode.policy import DecodePolicy, PastFuturePolicy
from lengthwise_policy.decode.request import Grant, Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import RequestId
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_worker.messages import Release

GREEDY = SamplingParameters(temperature=0.0)


class InterruptedMailbox(Mailbox[Command]):
    """Something happens once the loop waits for a step."""

    on_wait: Callable[[], object] | None = None

    def drain(self, timeout_seconds: float) -> list[Command]:
        if timeout_seconds and self.on_wait is not None:
            happens, self.on_wait = self.on_wait, None
            happens()
        return super().drain(timeout_seconds)


class SteppedEngine:
    """The decode loop over a toy, stepped by hand, and what it reported."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.mailbox = InterruptedMailbox(10_000)
        self.blocks = PrefixCache(model.cache.num_blocks)
        # It expects short outputs, so that memory runs out where they are long.
        policy = DecodePolicy(
            max_running=16, step_tokens=64, past_future=PastFuturePolicy(window=20, reserve=0.0)
        )
        self.scheduler = DecodeScheduler(
            policy, Objectives(), self.blocks, 16, random.Random(1).random
        )
        self.outputs: list[DecodeReport] = []
        self.loop = DecodeLoop(
            runner=model.runner,
            scheduler=self.scheduler,
            blocks=self.blocks,
            mailbox=self.mailbox,
            publish=self.publish,
        )
        self.works: dict[int, DecodeWork] = {}
        self.answered_at: dict[int, float] = {}

    def publish(self, output: DecodeReport) -> None:
        self.outputs.append(output)
        for outcome in output.outcomes:
            if isinstance(outcome, Grant):
                number = int(outcome.request_id.removeprefix("request-"))
                self.answered_at[number] = time.monotonic()

    def ask(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        sampling: SamplingParameters = GREEDY,
        stop: Sequence[int] = (),
    ) -> int:
        """A prompt that the worker computes itself; returns the number of its reservation."""
        number = len(self.works) + 1
        token_ids = list(prompt)
        work = self.works[number] = DecodeWork(
            reservation=Reservation(
                request_id=RequestId(f"request-{number}"),
                num_tokens=len(prompt),
                max_new_tokens=max_tokens,
                deadline_at=time.monotonic() + 60,
                local=True,
            ),
            salt=b"",
            router_id="router",
            number=number,
            token_ids=token_ids,
            sampling=SamplingState(
                sampling=sampling, token_ids=token_ids, num_prompt_tokens=len(prompt)
            ),
            stop_token_ids=frozenset(stop),
        )
        self.mailbox.post(work)
        return number

    def release(self, number: int) -> None:
        self.mailbox.post(Release(request_id=self.works[number].request_id))

    @property
    def rests(self) -> bool:
        is_empty = self.blocks.num_free == self.blocks.num_blocks
        return is_empty and not self.scheduler.num_queued

    def run(self, until: Callable[[], bool] | None = None) -> None:
        self.loop.step()
        for _ in range(5000):
            if until() if until else self.rests:
                return
            self.loop.step()
        raise AssertionError("it does not end")

    def tokens(self, number: int) -> list[int]:
        """What the router received, in the order of their indices, which have no gap."""
        received: list[tuple[int, int]] = []
        for output in self.outputs:
            for rows in output.rows.values():
                for reservation, index, token_id in zip(
                    rows.reservations, rows.indices, rows.token_ids, strict=True
                ):
                    if reservation == number:
                        received.append((index, token_id))
        assert [index for index, _ in received] == list(range(len(received)))
        return [token_id for _, token_id in received]

    def reasons(self) -> dict[int, int]:
        """How each reservation ended."""
        return {
            ended.reservation: ended.finish_reason
            for output in self.outputs
            for rows in output.rows.values()
            for ended in rows.ended
        }

    def oracle(self, prompt: Sequence[int], count: int) -> list[int]:
        spec = self.model.spec
        assert isinstance(spec, ToySpec)
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(toy_next_token(tokens, spec))
        return tokens[len(prompt) :]

    def nothing_is_held(self) -> bool:
        check_cache(self.blocks)
        return self.rests and self.blocks.num_free == self.blocks.num_blocks
