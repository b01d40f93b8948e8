"""The import rule, held on the syntax tree: lcl/core <- lcl <- downstream; pipeline takes lcl.core only; nothing takes cluster."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("lcl", "pipeline", "downstream", "cluster")
ALLOWED = {
    "lcl/core": ("lcl.core",),
    "lcl": ("lcl",),
    "pipeline": ("lcl.core", "pipeline"),
    "downstream": ("lcl", "downstream"),
    "cluster": ("lcl", "pipeline", "cluster"),  # nothing imports it
}
HEAVY = ("torch", "ray", "deepspeed", "open_clip", "transformers")
SOURCES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))
ENTRY_FOLDERS = ("lcl", "pipeline", "downstream", "cluster")


def imported_modules(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def layer_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "lcl/core" if relative.parts[:2] == ("lcl", "core") else relative.parts[0]


def is_inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    for module in imported_modules(path):
        if is_inside(module, OURS):
            assert is_inside(module, ALLOWED[layer_of(path)]), f"{path.name} imports {module}"
        if layer_of(path) == "lcl/core":
            assert not is_inside(module, HEAVY), f"{path.name} imports {module}"


def test_the_rule_was_checked_on_something() -> None:
    assert {layer_of(path) for path in SOURCES} >= {"lcl/core", "lcl", "pipeline"}


def entry_points() -> list[Path]:
    return [path for path in SOURCES if '__name__ == "__main__"' in path.read_text()]


def test_only_tests_import_entry_points() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in entry_points()}
    assert "lcl.pretrain" in modules
    for path in SOURCES:
        assert not modules & set(imported_modules(path)), path


def test_no_file_beside_an_entry_point_hides_a_module() -> None:
    """`python lcl/pretrain.py` puts lcl/ first on the path: a file there would be imported in the place of its namesake."""
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) - set(OURS)
    for folder in ENTRY_FOLDERS:
        names = {path.stem for path in (ROOT / folder).iterdir() if (path.suffix == ".py" or path.is_dir()) and path.stem not in ("__init__", "__pycache__", "core")}
        assert folder not in names
        assert not names & taken
