"""A step whose tokens are on their way from the device to the host.

One copy brings them; the host waits for it only when it needs them, and for a bounded time.
"""

import time
from collections.abc import Sequence
from typing import Final

import torch

from lengthwise_engine.runner.base import SampledToken
from lengthwise_engine.runner.layer_events import LayerEvents
from lengthwise_engine.runner.sampler import ChosenTokens, SamplingState

STEP_SECONDS: Final = 60.0
"""No step takes a device so long: it has stopped."""

_LOOK_SECONDS: Final = 20e-6
"""Waiting in the driver could not be bounded, and would keep it busy."""


class DeviceStep:
    """A `PendingStep` of a device; on the CPU it has ended when it was launched."""

    def __init__(
        self,
        states: Sequence[SamplingState | None],
        chosen: ChosenTokens,
        device: torch.device,
        layers: LayerEvents | None = None,
    ) -> None:
        """`layers` are announced to a caller that asked for them."""
        self._states = states
        self._layers = layers
        self._chosen = chosen
        self._numbers = chosen.numbers
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._numbers = torch.empty(
                chosen.numbers.shape, dtype=chosen.numbers.dtype, pin_memory=True
            )
            self._numbers.copy_(chosen.numbers, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    @property
    def is_ready(self) -> bool:
        if self._layers is not None:
            self._layers.announce()
        if self._event is None:
            return True
        ended: bool = self._event.query()  # type: ignore[no-untyped-call]
        return ended

    def _wait(self) -> None:
        """Returns once the device has computed the step; raises TimeoutError if it does not."""
        give_up_at = time.monotonic() + STEP_SECONDS
        while not self.is_ready:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"the device has not ended a step within {STEP_SECONDS} s")
            time.sleep(_LOOK_SECONDS)

    def tokens(self) -> list[SampledToken | None]:
        self._wait()
        if self._layers is not None:
            self._layers.finish()
        tokens = iter(self._chosen.read(self._numbers))
        return [None if state is None else next(tokens) for state in self._states]
