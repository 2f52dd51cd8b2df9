"""When tokens leave for a router: the more requests run, the more steps share a message."""

from typing import Final

MOST_SECONDS: Final = 0.05
"""No token waits for longer, where nothing longer was asked for."""

SECONDS_PER_REQUEST: Final = 0.0025
"""A message costs a router some 0.1 ms of CPU whatever it holds: so it spends 4 % of a core on one
decode worker's, until the interval is the longest."""

LONGEST_INTERVAL_SECONDS: Final = 10.0


def gathering_seconds(shortest: float, num_requests: int) -> float:
    """Between two messages of so many requests' tokens; `shortest`: for few. 0: every step's
    tokens leave at once."""
    if not shortest:
        return 0.0
    return max(shortest, min(num_requests * SECONDS_PER_REQUEST, MOST_SECONDS))
