"""Layers announced as the device computes them, while it always has later ones to compute.

A host launches layers far faster than a GPU computes them. So each layer's end is marked in the
device's queue; what has been passed by then is announced between launches, and whenever the step is
looked at or waited for. Where few layers are launched ahead at all, their announcements come as
early as this way.

Invariant: announcements are made on the caller's thread, in order, each once, and the device is
waited for only when all its work is launched.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import torch

LAYER_SECONDS: Final = 60.0
"""No layer takes a device so long: it has stopped."""

_LOOK_SECONDS: Final = 50e-6
"""A hundredth of what a layer of a long prompt takes, and no load on the host."""

Mark = Callable[[], Callable[[], bool]]
"""Marks where the device's queue ends now; what it returns is whether the device came there."""


class LayerEvents:
    """Of one step: `launched` for each layer, `announce` as often as wanted, then `finish`."""

    def __init__(
        self, on_layer: Callable[[int], None], mark: Mark, *, layer_seconds: float = LAYER_SECONDS
    ) -> None:
        self._on_layer = on_layer
        self._mark = mark
        self._layer_seconds = layer_seconds
        self._launched: deque[tuple[int, Callable[[], bool]]] = deque()

    def launched(self, layer: int) -> None:
        """All work of the layer is in the queue. Announces what is computed by now."""
        self._launched.append((layer, self._mark()))
        self.announce()

    def announce(self) -> None:
        """Announce what is computed by now."""
        while self._launched and self._launched[0][1]():
            self._announce_next()

    def finish(self) -> None:
        """Announce the rest. Raises TimeoutError when the device has stopped."""
        while self._launched:
            self._wait(*self._launched[0])
            self._announce_next()

    def _announce_next(self) -> None:
        layer, _ = self._launched.popleft()
        self._on_layer(layer)

    def _wait(self, layer: int, is_computed: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + self._layer_seconds
        while not is_computed():
            if time.monotonic() > give_up_at:
                raise TimeoutError(
                    f"the device has not computed layer {layer} within {self._layer_seconds:g} s"
                )
            time.sleep(_LOOK_SECONDS)


def mark_stream() -> Callable[[], bool]:
    """A `Mark` of the current CUDA stream."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    is_passed: Callable[[], bool] = event.query
    return is_passed
