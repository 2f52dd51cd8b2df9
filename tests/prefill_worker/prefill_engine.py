"""The prefill loop over a toy, stepped by hand, in this process."""

import time
from collections.abc import Callable, Sequence

from lengthwise_engine.loaded_model import LoadedModel
from lengthwise_engine.runner.base import ModelRunner
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_policy.kv.prefix_cache import PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId
from lengthwise_prefill_worker.kv.pieces import PieceReady
from lengthwise_prefill_worker.messages import Command, Computed, PrefillWork
from lengthwise_prefill_worker.stepping.step_loop import PrefillLoop
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_worker.messages import Release

BLOCK_SIZE = 16


class SteppedPrefill:
    """A loop stepped by hand; it is also where its results go."""

    def __init__(
        self,
        model: LoadedModel,
        policy: PrefillPolicy,
        *,
        layerwise_tokens: int = 512,
        piece_bytes: int = 4 << 20,
        runner: ModelRunner | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`runner`: in the place of the model's."""
        self.model = model
        self.clock = clock
        self.mailbox: Mailbox[Command] = Mailbox(1000)
        self.blocks = PrefixCache(model.cache.num_blocks)
        self.reports: list[PrefillReport] = []
        self.sent: list[PieceReady] = []
        self.loop = PrefillLoop(
            runner=runner or model.runner,
            scheduler=PrefillScheduler(policy, Objectives(), self.blocks, BLOCK_SIZE),
            blocks=self.blocks,
            mailbox=self.mailbox,
            publish=self.reports.append,
            send=self.send,
            layerwise_tokens=layerwise_tokens,
            piece_bytes=piece_bytes,
            clock=clock,
        )

    def send(self, pieces: Sequence[PieceReady]) -> None:
        self.sent.extend(pieces)

    def ask(self, request_id: RequestId, token_ids: list[int], sent_from: int | None = 0) -> None:
        now = self.clock()
        self.mailbox.post(
            PrefillWork(
                job=PrefillJob(
                    request_id=request_id,
                    num_tokens=len(token_ids),
                    arrived_at=now,
                    deadline_at=now + 60,
                    hashes=tuple(block_hashes(token_ids, BLOCK_SIZE, b"")),
                ),
                sampling=SamplingState(
                    sampling=SamplingParameters(temperature=0.0),
                    token_ids=token_ids,
                    num_prompt_tokens=len(token_ids),
                ),
                sent_from=sent_from,
            )
        )

    def release(self, request_id: RequestId) -> None:
        self.mailbox.post(Release(request_id=request_id))

    def compute(
        self, request_id: RequestId, token_ids: list[int], sent_from: int | None = 0
    ) -> Computed:
        """Steps until the prompt is computed, and releases it."""
        self.sent.clear()
        self.ask(request_id, token_ids, sent_from)
        while True:
            self.loop.step()
            for outcome in self.reports[-1].outcomes:
                assert isinstance(outcome, Computed)
                self.release(request_id)
                self.loop.step()
                return outcome

    def sent_blocks(self) -> list[tuple[int, int]]:
        """(layer, block of the request) in the order in which they left."""
        return [
            (layer, piece.first_block + index)
            for piece in self.sent
            for index in range(len(piece.piece.block_ids))
            for layer in range(
                piece.piece.first_layer, piece.piece.first_layer + piece.piece.num_layers
            )
        ]
