"""The committed dashboards are what their code says, and can be read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from monitoring.queries import DASHBOARDS

HELM = Path(__file__).parents[2] / "helm"

BOARDS = ("overview", "lengths", "kv-transfer", "autoscaling")


def board(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text("utf-8"))
    return read


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in board(name)["panels"] if panel["type"] != "row"]


def test_the_files_are_fresh_and_no_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dashboards", str(tmp_path)]
    subprocess.run(command, cwd=HELM, env={"PYTHONPATH": str(HELM)}, check=True, timeout=30)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in DASHBOARDS.iterdir()}
    assert made.keys() == {f"{name}.json" for name in BOARDS}
    assert made == committed, "run: make dashboards"


@pytest.mark.parametrize("name", BOARDS)
def test_panels_say_what_they_show(name: str) -> None:
    for panel in panels(name):
        assert panel["title"]
        assert panel["description"].endswith(".")
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        assert defaults.get("unit") or panel["options"]["yAxis"]["unit"], panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            assert target["refId"]
    titles = [panel["title"] for panel in panels(name)]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board(name)["panels"]:
        at = panel["gridPos"]
        area = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not area & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= area


@pytest.mark.parametrize("name", BOARDS)
def test_every_query_is_of_the_release_chosen_at_the_top(name: str) -> None:
    variables = [each["name"] for each in board(name)["templating"]["list"]]
    assert variables == ["datasource", "namespace", "release", "model", "pool", "pod"]
    for panel in panels(name):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert 'namespace="$namespace",release="$release"' in target["expr"]


def test_names_and_identifiers_are_unique() -> None:
    assert len({board(name)["uid"] for name in BOARDS}) == len(BOARDS)
    for name in BOARDS:
        ids = [panel["id"] for panel in board(name)["panels"]]
        assert len(ids) == len(set(ids))
