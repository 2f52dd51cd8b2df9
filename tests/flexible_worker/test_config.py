"""A flexible worker's configuration: what both roles read, and what each reads alone."""

from pathlib import Path

import pytest

from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_runtime.config import ConfigError, load_config

FULL = """
model: /models/m
role: prefill
listen: 0.0.0.0:50051
drain_seconds: 7
prefill: {length_class: long, piece_bytes: 1024}
decode: {policy: {max_running: 9}}
"""


def _load(folder: Path, text: str) -> FlexibleWorkerConfig:
    path = folder / "worker.yaml"
    path.write_text(text)
    return load_config(path, FlexibleWorkerConfig)


def test_each_role_is_given_the_common_keys_and_its_own(tmp_path: Path) -> None:
    config = _load(tmp_path, FULL)
    prefill, decode = config.as_prefill(), config.as_decode()
    for role in (prefill, decode):
        assert (role.model, role.listen, role.drain_seconds) == ("/models/m", "0.0.0.0:50051", 7)
    assert (prefill.length_class, prefill.piece_bytes) == ("long", 1024)
    assert decode.policy.max_running == 9


def test_a_role_that_nothing_is_said_about_has_its_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path, "{model: m, role: decode}")
    assert config.as_prefill().length_class is None
    assert config.as_decode().policy.max_running > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{model: m}", "role: "),
        ("{model: m, role: both}", "role: .*'prefill' or 'decode', got 'both'"),
        ("{model: m, role: decode, piece_bytes: 5}", "piece_bytes: Unexpected"),
        ("{model: m, role: decode, decode: {piece_bytes: 5}}", "decode.piece_bytes: "),
        ("{model: m, role: decode, prefill: {piece_bytes: 0}}", "piece_bytes must be above 0"),
        ("{model: m, role: decode, prefill: {length_class: tiny}}", "prefill.length_class: "),
    ],
    ids=["no role", "no such role", "key of a role", "key of the other", "bad value", "no class"],
)
def test_a_wrong_configuration_names_the_field(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        _load(tmp_path, text)
