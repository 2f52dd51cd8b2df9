"""How long KV is under way. Each worker has one link, with one bandwidth in and one out; pushes
over a link follow one another, so that many to one decode worker wait for each other there."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True, eq=False)
class NetworkPort:
    """Of one worker."""

    bytes_per_second: float
    out_free_at: float = 0.0
    in_free_at: float = 0.0
    bytes_sent: int = 0


def push_kv(
    source: NetworkPort,
    target: NetworkPort,
    *,
    num_bytes: int,
    last_bytes: int,
    ready_from: float,
    ready_until: float,
) -> tuple[float, int]:
    """When the last of `num_bytes` has arrived, and how many were not sent by `ready_until`.

    They become ready from `ready_from` to `ready_until`, the `last_bytes` of them at the end: all
    of them where a piece is sent as one.
    """
    per_second = min(source.bytes_per_second, target.bytes_per_second)
    begin = max(ready_from, source.out_free_at, target.in_free_at)
    busy_until = begin + num_bytes / per_second
    arrived_at = max(busy_until, ready_until + last_bytes / per_second)
    source.out_free_at = target.in_free_at = busy_until
    source.bytes_sent += num_bytes
    late_bytes = last_bytes + int(max(busy_until - ready_until, 0) * per_second)
    return arrived_at, min(num_bytes, late_bytes)
