"""What the simulator stands on."""

import ast
from pathlib import Path

import lengthwise_simulator

ROOT = Path(lengthwise_simulator.__file__).parent
PERMITTED = {"lengthwise_policy", "lengthwise_checkpoint", "lengthwise_simulator"}
OWN_ROOMS = {
    "cost": {"errors", "cost"},
    "workload": {"errors", "workload"},
    "cluster": {"errors", "events", "cost", "workload", "cluster"},
    "search": {"errors", "events", "cost", "workload", "cluster", "results", "search"},
}


def imported(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_of_the_product_it_imports_policy_and_checkpoint_alone() -> None:
    names = {name for path in ROOT.rglob("*.py") for name in imported(path)}
    ours = {name.partition(".")[0] for name in names if name.startswith("lengthwise")}
    assert ours <= PERMITTED
    assert not names & {"asyncio", "threading", "time", "grpc"}


def test_costs_and_workloads_know_nothing_of_clusters() -> None:
    for room, permitted in OWN_ROOMS.items():
        for path in (ROOT / room).glob("*.py"):
            own = {each for each in imported(path) if each.startswith("lengthwise_simulator.")}
            assert {each.split(".")[1] for each in own} <= permitted, path
