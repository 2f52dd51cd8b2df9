"""The stand-in for CUDA graphs refuses what they refuse."""

import pytest
import torch
from kernels.frozen_recorder import FrozenRecorder


def test_a_body_that_asks_the_device_something_cannot_be_replayed() -> None:
    numbers = torch.tensor([0, 3])
    for body in (
        lambda: numbers.nonzero(),
        lambda: numbers[1].item(),
        lambda: numbers[numbers > 1],
    ):
        with pytest.raises(RuntimeError, match="the host needs its result"):
            FrozenRecorder().capture(body).replay()
