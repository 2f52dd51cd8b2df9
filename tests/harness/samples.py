"""What a process exports to Prometheus at this moment."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels."""


def samples_of(address: str, seconds: float = 5.0) -> dict[Series, float]:
    """All series that the process at host:port serves, with their values."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=seconds) as reply:
        text = reply.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
