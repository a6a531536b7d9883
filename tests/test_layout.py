"""Packages import in one direction, and files stay short: read from the source."""

import ast
from pathlib import Path

import pytest

import torchpoly

PACKAGE = Path(torchpoly.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# A package imports from those further down, not from those on its own level.
LEVELS = [
    ["_display"],
    ["_search", "inspection"],
    ["_estimator"],
    ["_train", "_dask"],
    ["_gram", "_loss"],
    ["_polynomial"],
    ["_backend"],
]
LEVEL = {package: number for number, packages in enumerate(LEVELS) for package in packages}


def name(file):
    return file.relative_to(PACKAGE).as_posix()


def imported(file):
    """Return the modules that a file imports anywhere, inside functions and for type checkers, too."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            # Either the module itself or a name in it.
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def test_there_are_ten_packages():
    folders = {file.parent.name for file in FILES if file.parent != PACKAGE}
    assert folders == set(LEVEL)
    assert len(LEVEL) == 10
    # The second refuses models of 0.1.0.
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "_regressor.py"}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_go_one_way(file):
    own = file.parent.name
    for module in imported(file) if own in LEVEL else ():
        if module.startswith("torchpoly."):
            package = module.split(".")[1]
            if package in LEVEL:
                assert package == own or LEVEL[package] > LEVEL[own], f"{own} imports {module}"


def test_modules_do_not_import_each_other_in_a_circle():
    modules = {".".join(("torchpoly", *file.relative_to(PACKAGE).with_suffix("").parts)): file for file in FILES}
    left = {module: imported(file) & set(modules) - {module} for module, file in modules.items()}
    while free := {module for module, others in left.items() if not others & set(left)}:
        left = {module: others for module, others in left.items() if module not in free}
    assert not left


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_are_short(file):
    source = file.read_text()
    docstrings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    n_lines = len(source.splitlines()) - sum(node.end_lineno - node.lineno + 1 for node in docstrings)
    assert n_lines <= 400


def test_scikit_learns_private_names_stand_in_one_file():
    for file in FILES:
        private = {
            module
            for module in imported(file)
            if module.startswith("sklearn.") and any(part.startswith("_") for part in module.split("."))
        }
        assert not private or name(file) == "_backend/sklearn_compat.py", (name(file), private)
