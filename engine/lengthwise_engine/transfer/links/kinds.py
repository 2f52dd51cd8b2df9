"""The kinds of links that there are, and which of them two workers take."""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from lengthwise_engine.transfer.links.base import (
    Handshake,
    Incoming,
    LinkEnd,
    LinkKind,
    LinkUnavailable,
    Outgoing,
)
from lengthwise_engine.transfer.links.network_link import NetworkLinkKind
from lengthwise_engine.transfer.links.pull_link import PullLinkKind

KINDS: Final[tuple[LinkKind, ...]] = (PullLinkKind(), NetworkLinkKind())
"""The best first. All workers must have the same kinds in the same order; whatever changes them
changes the fingerprint of `KVLayout`, so that workers of two versions build no links."""

Operation = TypeVar("Operation")


def open_sender(handshake: Handshake) -> tuple[LinkEnd[Outgoing], str]:
    """The end of the first kind that can be had, and how the bytes go, in words."""
    return _first((kind.open_sender for kind in KINDS), handshake)


def open_receiver(handshake: Handshake) -> tuple[LinkEnd[Incoming], str]:
    """As `open_sender`."""
    return _first((kind.open_receiver for kind in KINDS), handshake)


def _first(
    openers: Iterable[Callable[[Handshake], LinkEnd[Operation]]], handshake: Handshake
) -> tuple[LinkEnd[Operation], str]:
    reasons: list[str] = []
    for opener in openers:
        try:
            end = opener(handshake)
        except LinkUnavailable as error:
            reasons.append(str(error))
            continue
        return end, f"{end.path}: {'; '.join(reasons)}" if reasons else end.path
    raise LinkUnavailable("; ".join(reasons))
