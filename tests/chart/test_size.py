"""Helm keeps a release in a Secret, and the API server refuses one above a mebibyte."""

import base64
import gzip
import json

from chart.helm import CHART, Rendered

LIMIT = 1 << 20


def test_a_release_with_everything_fits_into_its_secret(helm: str) -> None:
    files = {
        str(path.relative_to(CHART)): base64.b64encode(path.read_bytes()).decode()
        for path in sorted(CHART.rglob("*"))
        if path.is_file()
    }
    switches = ("podMonitor", "prometheusRule", "dashboards")
    rendered = Rendered(helm, *(f"--set={each}.enabled=true" for each in switches))
    release = json.dumps({"chart": files, "manifest": json.dumps(rendered.objects)}).encode()
    # As Helm does it; the API server counts the Secret's data, which is base64 once more.
    stored = base64.b64encode(base64.b64encode(gzip.compress(release)))
    assert len(stored) < LIMIT // 2, f"{len(stored)} bytes; half the limit is left for growth"
