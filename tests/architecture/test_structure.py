"""The bounds of the code's shape that `benchmarks/structure.py` measures.

The exceptions only ever get fewer: take out what is no longer one.
"""

from functools import cache

import structure
from structure import Module

MAX_FILE_LINES, MAX_TEST_LINES = structure.AIMS["file_lines_max"], 400
MAX_FUNCTION_LINES, MAX_TEST_FUNCTION_LINES = structure.AIMS["function_lines_max"], 80
MAX_FILES = structure.AIMS["files_in_largest_folder"]

FULL_FOLDERS = {"client/lengthwise"}


@cache
def product() -> list[Module]:
    return [module for package in structure.packages() for module in structure.modules(package)]


@cache
def rest() -> list[Module]:
    return [
        module
        for folder in ("tests", "benchmarks", "helm")
        for module in structure.modules(structure.ROOT / folder)
    ]


def name(module: Module) -> str:
    return module.path.relative_to(structure.ROOT).as_posix()


def long_files(modules: list[Module], most: int) -> set[str]:
    return {name(module) for module in modules if module.lines > most}


def long_functions(modules: list[Module], most: int) -> set[str]:
    """Files with such a function."""
    return {name(module) for module in modules if max(module.functions, default=0) > most}


def test_a_file_holds_one_noun() -> None:
    assert long_files(product(), MAX_FILE_LINES) == set()
    assert not long_files(rest(), MAX_TEST_LINES)


def test_a_function_fits_a_screen() -> None:
    assert long_functions(product(), MAX_FUNCTION_LINES) == set()
    assert not long_functions(rest(), MAX_TEST_FUNCTION_LINES)


def test_a_folder_can_be_looked_over() -> None:
    harness = [module for module in rest() if module.path.parent.name == "harness"]
    files = structure.files_per_folder([*product(), *harness])
    full = {folder for folder, count in files.items() if count > MAX_FILES}
    assert {folder.relative_to(structure.ROOT).as_posix() for folder in full} <= FULL_FOLDERS


def test_a_class_name_means_one_thing() -> None:
    assert structure.duplicated_classes(product()) == {}


def test_no_modules_import_one_another() -> None:
    assert structure.cycles([package.name for package in structure.packages()]) == []
