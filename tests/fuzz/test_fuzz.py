"""A short run of `python -m fuzz`, which `make fuzz` has long."""

from pathlib import Path

import pytest
from fuzz.deployment import fuzzed
from fuzz.fuzzing import fuzz


@pytest.mark.slow
async def test_no_message_ends_a_process_or_leaves_a_traceback_or_a_wrong_answer(
    tmp_path: Path,
) -> None:
    with fuzzed(tmp_path) as (cluster, spec):
        result = await fuzz(cluster, spec, seed=1, num_messages=1500)
    assert not result.troubles, "\n".join(result.troubles)
    assert result.answers["OK"]
    assert result.answers["INVALID_ARGUMENT"]
