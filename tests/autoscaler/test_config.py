"""What an operator may not set, and the message for it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_runtime.config import ConfigError, load_config

POOL = {"name": "prefill", "deployment": "demo-prefill", "role": "prefill", "max_replicas": 4}

GOOD = {
    "prometheus": {"url": "http://prometheus:9090"},
    "release": "demo",
    "lease": "demo-lengthwise-autoscaler",
    "pools": [POOL],
}


def load(folder: Path, **keys: Any) -> AutoscalerConfig:
    path = folder / "autoscaler.yaml"
    path.write_text(yaml.safe_dump(GOOD | keys))
    return load_config(path, AutoscalerConfig)


def test_little_has_to_be_set(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.pools[0].pool.max_replicas == 4
    assert config.scaling.scale_in_seconds == 300.0
    assert not config.dry_run


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param({"pools": []}, "got none that is sized", id="no pools"),
        pytest.param({"pools": [POOL | {"fixed": True}]}, "got none that is sized", id="all fixed"),
        pytest.param({"pools": [POOL, POOL]}, "name prefill is there more than once", id="twice"),
        pytest.param(
            {"pools": [POOL, POOL | {"name": "other"}]},
            "deployment demo-prefill is there more than once",
            id="one deployment twice",
        ),
        pytest.param(
            {"pools": [POOL | {"model": "a"}, POOL | {"name": "other", "deployment": "other"}]},
            "got no model for pool 'other'",
            id="one without a model",
        ),
        pytest.param(
            {"pools": [POOL | {"model": "a"}], "model_objectives": {"b": {}}},
            "got 'b', expected a model of the pools",
            id="objectives of no model",
        ),
        pytest.param({"pools": [POOL | {"role": "encode"}]}, "pools.0.role", id="role"),
        pytest.param(
            {"pools": [POOL | {"min_replicas": 5}]}, "max_replicas: expected at least 5", id="range"
        ),
        pytest.param({"pools": [POOL | {"max_replicas": 0}]}, "at least 1, got 0", id="no room"),
        pytest.param({"pools": [POOL | {"min_replicas": -1}]}, "min_replicas", id="negative"),
        pytest.param({"pools": [POOL | {"deployment": ""}]}, "which is sized", id="no deployment"),
        pytest.param(
            {"pools": [POOL | {"role": "decode", "length_class": "short"}]},
            "only prefill pools that are not flexible have one",
            id="class of decode",
        ),
        pytest.param(
            {"pools": [POOL | {"flexible": True, "length_class": "short"}]},
            "only prefill pools that are not flexible have one",
            id="class of flexible",
        ),
        pytest.param({"release": ""}, "release: got nothing", id="release"),
        pytest.param({"lease": ""}, "lease: got nothing", id="lease"),
        pytest.param({"interval_seconds": 0}, "interval_seconds", id="interval"),
        pytest.param(
            {"objectives": {"tpot_seconds": float("nan")}}, "tpot_seconds: expected", id="nan"
        ),
        pytest.param({"scaling": {"margin": 2}}, "margin", id="policy"),
        pytest.param({"scaling": {"speed": 2}}, "scaling.speed", id="unknown key"),
        pytest.param({"prometheus": {"url": "prometheus:9090"}}, "http://HOST:PORT", id="scheme"),
        pytest.param({"prometheus": {"url": "http://"}}, "http://HOST:PORT", id="no host"),
        pytest.param({"prometheus": {"url": "http://[::1"}}, "not an URL", id="no URL"),
        pytest.param({"prometheus": {"url": "http://p:9090/?x=1"}}, "expected no ?", id="query"),
        pytest.param(
            {"prometheus": {"url": "http://p:9090", "window_seconds": 10}},
            "at least 4 scrape intervals, 20, got 10",
            id="short window",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **keys)
    assert expected in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:hunter2@p:9090", "https://hunter2@p"])
def test_credentials_in_the_url_are_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, prometheus={"url": url})
    assert "use bearer_token" in str(caught.value)
    assert "hunter2" not in str(caught.value)
