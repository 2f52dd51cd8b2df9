"""Layers are announced in order, never before the device computed them, and it is not held up."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_engine.runner.layer_events import LayerEvents


@dataclass
class FakeDevice:
    """A queue of launched layers, of which the first `num_computed` are computed."""

    num_launched: int = 0
    num_computed: int = 0
    num_waits: int = 0
    """How often the host saw that something is not computed."""
    computes_when_waited_for: bool = True

    def mark(self) -> Callable[[], bool]:
        self.num_launched += 1
        position = self.num_launched

        def is_passed() -> bool:
            if self.num_computed >= position:
                return True
            self.num_waits += 1
            if self.computes_when_waited_for and self.num_waits % 3 == 0:
                self.num_computed += 1
            return False

        return is_passed


@given(computed=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_each_layer_is_announced_once_in_order_after_it_was_computed(computed: list[int]) -> None:
    device = FakeDevice()
    announced = []

    def on_layer(layer: int) -> None:
        assert layer < device.num_computed
        announced.append(layer)

    layers = LayerEvents(on_layer, device.mark)
    for layer, more in enumerate(computed):
        layers.launched(layer)
        device.num_computed = min(device.num_computed + more, device.num_launched)
    layers.finish()
    assert announced == list(range(len(computed)))


def test_no_wait_for_the_device_before_everything_is_launched() -> None:
    device = FakeDevice(computes_when_waited_for=False)
    announced: list[int] = []
    layers = LayerEvents(announced.append, device.mark)
    for layer in range(5):
        layers.launched(layer)
    assert (device.num_waits, announced) == (5, [])


def test_what_is_computed_meanwhile_is_announced_with_the_next_launch() -> None:
    device = FakeDevice()
    announced: list[int] = []
    layers = LayerEvents(announced.append, device.mark)
    layers.launched(0)
    layers.launched(1)
    device.num_computed = 2
    layers.launched(2)
    assert announced == [0, 1]


def test_a_device_that_stopped_is_an_error_in_bounded_time() -> None:
    device = FakeDevice(computes_when_waited_for=False)
    layers = LayerEvents(lambda layer: None, device.mark, layer_seconds=0.01)
    layers.launched(7)
    with pytest.raises(TimeoutError, match=r"layer 7 within 0\.01 s"):
        layers.finish()


def test_a_listener_that_fails_fails_the_step() -> None:
    device = FakeDevice()

    def fail(layer: int) -> None:
        raise KeyError(layer)

    layers = LayerEvents(fail, device.mark)
    layers.launched(0)
    with pytest.raises(KeyError):
        layers.finish()
