"""Models that transformers computes over our cache, against transformers alone, in float32."""

import re
from pathlib import Path

import pytest
from harness.foreign.architectures import ARCHITECTURES, write_foreign_checkpoint
from harness.foreign.deviations import DOCUMENT, WAYS, deviations


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_transformers_however_they_are_computed(
    architecture: str, tmp_path: Path
) -> None:
    found = deviations(write_foreign_checkpoint(tmp_path, architecture))
    assert set(found) == set(WAYS)
    assert all(deviation < 1e-4 for deviation in found.values()), found


def test_the_documents_table_has_a_row_for_each_of_them() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| \d", text, re.MULTILINE) == list(ARCHITECTURES)
