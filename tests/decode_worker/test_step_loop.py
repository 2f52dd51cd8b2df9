"""The decode engine's loop with the toy model, stepped by hand."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from harness.block_integrity import check_cache

from lengthwise_decode_worker.messages import Command, DecodeWork
from lengthwise_decode_worker.stepping.step_loop import DecodeLoop
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import PendingStep, SampledToken, SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import Grant, Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import RequestId
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_worker.messages import Release

A, B = RequestId("a"), RequestId("b")


def work(request_id: RequestId, reservation: int) -> DecodeWork:
    """A prompt that the worker computes itself."""
    token_ids = [reservation] * 40
    return DecodeWork(
        reservation=Reservation(
            request_id=request_id,
            num_tokens=40,
            max_new_tokens=3,
            deadline_at=time.monotonic() + 60,
            local=True,
        ),
        salt=b"",
        router_id="router",
        number=reservation,
        token_ids=token_ids,
        sampling=SamplingState(
            sampling=SamplingParameters(temperature=0.0), token_ids=token_ids, num_prompt_tokens=40
        ),
        stop_token_ids=frozenset(),
    )


class Interrupted:
    """The model's runner, during whose steps something else happens."""

    def __init__(self, model: LoadedModel, meanwhile: Callable[[], None]) -> None:
        self._runner = model.runner
        self._meanwhile = meanwhile

    @property
    def layout(self) -> KVLayout:
        return self._runner.layout

    @property
    def runs_ahead(self) -> bool:
        return self._runner.runs_ahead

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        self._meanwhile()
        return self._runner.launch(chunks, on_layer)

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    folder = write_toy_checkpoint(tmp_path)
    return load_runner(folder, device="cpu", num_blocks=64, kv_memory_bytes=1 << 20)


def test_a_reservation_is_answered_during_a_step_and_a_release_after_it(
    model: LoadedModel,
) -> None:
    mailbox: Mailbox[Command] = Mailbox(100)
    published: list[DecodeReport] = []
    granted_during_step: list[RequestId] = []

    def granted() -> list[RequestId]:
        outcomes = [outcome for output in published for outcome in output.outcomes]
        return [each.request_id for each in outcomes if isinstance(each, Grant)]

    def meanwhile() -> None:
        if scheduler.num_running == 1 and B not in granted():
            mailbox.post(work(B, 2))
            mailbox.post(Release(request_id=A))
            steps.append(len(published))

    steps: list[int] = []
    blocks = PrefixCache(64)
    scheduler = DecodeScheduler(DecodePolicy(), Objectives(), blocks, 16, lambda: 0.5)

    def publish(output: DecodeReport) -> None:
        published.append(output)
        if steps and not granted_during_step:
            granted_during_step.extend(granted())

    loop = DecodeLoop(
        runner=Interrupted(model, meanwhile),
        scheduler=scheduler,
        blocks=blocks,
        mailbox=mailbox,
        publish=publish,
    )
    mailbox.post(work(A, 1))
    loop.step()
    assert granted_during_step == [A, B]  # before the step's own output
    assert published[-1].rows["router"].reservations == [1]  # the released one still got its token
    loop.step()
    assert published[-1].rows["router"].reservations == [2]
    for _ in range(5):
        loop.step()
    assert scheduler.num_running == 0
    assert blocks.num_free == 64
    check_cache(blocks)
