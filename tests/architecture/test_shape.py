"""What holds of the whole code: documented names, light imports, links that lead somewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = (
    "wire", "client", "policy", "checkpoint", "kernels", "engine", "runtime", "router", "worker",
    "prefill_worker", "decode_worker", "flexible_worker", "autoscaler", "local", "simulator", "cli",
)  # fmt: skip


def _modules() -> Iterator[Path]:
    for folder in (*SOURCE_ROOTS, "helm", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "/v1/" not in path.as_posix():
                yield path


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_module_says_why_it_exists() -> None:
    begins = re.compile(r'(?:#.*\n|\s)*r?"""\s*[^\s"]|\s*\Z')
    silent = [
        _name(path) for path in _modules() if not begins.match(path.read_text(encoding="utf-8"))
    ]
    assert not silent, "\n".join(silent)


def test_every_folder_holds_one_package_named_after_it() -> None:
    for folder in SOURCE_ROOTS:
        expected = "lengthwise" if folder == "client" else f"lengthwise_{folder}"
        packages = [path.parent.name for path in (ROOT / folder).glob("*/__init__.py")]
        assert packages == [expected]
        assert (ROOT / folder / expected / "py.typed").exists()


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    pattern = re.compile(r"lengthwise_[a-z_]*(?:_seconds|_total|_bytes|_tokens|_blocks|_requests"
                         r"|_in_flight|_waiting|_ratio|_predicted|_needed|replicas|_wanted|_leader"
                         r"|_dry_run|workers|_info|graphs|tasks)\b")  # fmt: skip
    documented = set(re.findall(r"`(lengthwise_[a-z_]+)`", (ROOT / "docs/metrics.md").read_text()))
    exported = set()
    for folder in SOURCE_ROOTS:
        for path in (ROOT / folder).rglob("*metrics.py"):
            text = path.read_text(encoding="utf-8")
            exported |= set(re.findall(r'"(lengthwise_[a-z_]+)"', text))
    assert exported, "found no metric at all"
    assert documented == exported
    assert all(pattern.fullmatch(name) for name in exported)


@pytest.mark.slow
def test_packages_that_need_no_torch_do_not_load_it() -> None:
    program = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        "    assert 'torch' not in sys.modules, module\n"
    )
    modules = (
        "lengthwise",
        "lengthwise_policy",
        "lengthwise_router.app",
        "lengthwise_autoscaler.app",
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *modules], stderr=subprocess.PIPE, text=True, timeout=50
    )
    assert result.returncode == 0, result.stderr


def test_the_sdk_needs_grpc_and_protobuf_alone() -> None:
    program = (
        "import sys, lengthwise\n"
        "heavy = {'typer', 'rich', 'pydantic', 'yaml', 'tokenizers', 'numpy', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )
    assert result.stdout.strip() == "[]"


def test_relative_links_in_the_documents_lead_somewhere() -> None:
    broken = []
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            if not (path.parent / target).exists():
                broken.append(f"{_name(path)}: {target}")
    assert not broken, "\n".join(broken)


def test_the_reference_of_configuration_says_what_the_classes_say() -> None:
    program = [sys.executable, "-m", "values_schema.configuration"]
    paths = {**os.environ, "PYTHONPATH": str(ROOT / "helm")}
    said = subprocess.run(program, env=paths, capture_output=True, timeout=60, check=True)
    written = (ROOT / "docs" / "configuration.md").read_bytes()
    assert said.stdout == written, "docs/configuration.md is stale; run: make schema"
