"""Helm, where it is on the PATH. No cluster is asked."""

import pytest
from chart.helm import HELMS, helm_or_skip

NEWEST, *OLDER = HELMS


@pytest.fixture(
    scope="session",
    params=[NEWEST, *(pytest.param(each, marks=pytest.mark.slow) for each in OLDER)],
)
def helm(request: pytest.FixtureRequest) -> str:
    """Each version of Helm in turn; the quick suite takes the newest."""
    return helm_or_skip(request.param)
