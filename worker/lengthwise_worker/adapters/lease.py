"""What keeps an adapter in memory while a request is computed with it."""


class AdapterLease:
    """Keeps an adapter where it is for as long as anything refers to it."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        """`number`: by which the engine knows the adapter."""
        self.number = number


def number_of(lease: AdapterLease | None) -> int | None:
    return None if lease is None else lease.number
