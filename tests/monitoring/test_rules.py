"""Every alert fires when it should, clears when it may, and is explained."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from monitoring.alert_cases import CASES
from monitoring.history import TARGET, Case, Silence
from monitoring.silences import SILENCES

ROOT = Path(__file__).parents[2]
RULES = (
    ROOT / "helm/lengthwise/rules/recording.yaml",
    ROOT / "helm/lengthwise/rules/alerts.yaml",
)
DOCUMENT = ROOT / "docs/alerts.md"


class Variant(NamedTuple):
    """An alert may have several rules, distinguished by labels of their own."""

    alert: str
    labels: frozenset[tuple[str, str]]


def groups() -> list[dict[str, Any]]:
    return [group for path in RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]


def alerts() -> dict[Variant, dict[str, Any]]:
    return {
        Variant(rule["alert"], frozenset(rule["labels"].items())): rule
        for group in groups()
        for rule in group["rules"]
        if "alert" in rule
    }


def variant_of(case: Case) -> Variant:
    return Variant(case.alert, frozenset(case.variant.items()))


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not on the PATH; it comes with Prometheus")
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RULES, ids=lambda path: str(path.stem))
def test_the_rules_are_valid(promtool: str, path: Path) -> None:
    run(promtool, "check", "rules", str(path))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *SILENCES], ids=lambda case: str(case.name))
def test_alerts_fire_and_clear(promtool: str, case: Case | Silence, tmp_path: Path) -> None:
    file = tmp_path / "case.test.yaml"
    content = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "1m",
        "group_eval_order": [group["name"] for group in groups()],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": series, "values": values} for series, values in case.history.items()
                ],
                "promql_expr_test": case.checks(),
            }
        ],
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    run(promtool, "test", "rules", str(file))


def test_every_alert_has_a_case() -> None:
    assert {variant_of(case) for case in CASES} == alerts().keys()


def test_group_names_are_unique() -> None:
    """They become one PrometheusRule, and an order of evaluation."""
    names = [group["name"] for group in groups()]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_texts_name_only_labels_that_their_expressions_have() -> None:
    """Those that the rule adds are not there yet when texts are made."""
    for case in CASES:
        rule = alerts()[variant_of(case)]
        used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert used <= {*TARGET, *case.labels} - case.variant.keys(), f"{case.name}: {used}"


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = re.findall(r"^### (Lengthwise\w+)$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted({variant.alert for variant in alerts()})
    for variant, rule in alerts().items():
        annotations = rule["annotations"]
        assert annotations["runbook_url"] == f"docs/alerts.md#{variant.alert.lower()}"
        assert annotations["summary"]
        assert annotations["description"]
        assert rule["labels"]["severity"] in ("critical", "warning")
