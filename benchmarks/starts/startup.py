"""How long a newcomer waits: from `lengthwise up` to the first token of the demo model, one prefill
and two decode workers. Budget: 20 s."""

import statistics
import time

from rows import append_rows

import lengthwise
from lengthwise_local import LocalCluster

REPEATS = 3


def main() -> None:
    seconds = []
    for _ in range(REPEATS):
        started_at = time.monotonic()
        with (
            LocalCluster(prefill=1, decode=2) as cluster,
            lengthwise.Client(cluster.endpoint) as client,
        ):
            next(client.stream("def ", max_tokens=2))
            seconds.append(time.monotonic() - started_at)
    print(f"first token after {statistics.median(seconds):.1f} s (budget 20 s)")
    row = {
        "repeats": REPEATS,
        "median_seconds": f"{statistics.median(seconds):.2f}",
        "min_seconds": f"{min(seconds):.2f}",
        "max_seconds": f"{max(seconds):.2f}",
        "budget_seconds": "20",
    }
    append_rows("startup", [row])


if __name__ == "__main__":
    main()
