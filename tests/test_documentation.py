"""What people paste runs, and says what the page says it does; what is public is documented.

The examples run where the site is built, in which an error is one of the build.
"""

import inspect
import re
from contextlib import chdir, redirect_stdout
from doctest import DocTestFinder, DocTestRunner
from functools import reduce
from io import StringIO
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from numpydoc.validate import validate

import torchpoly
import torchpoly.inspection

ROOT = Path(__file__).parents[1]
PAGES = [
    pytest.param(page, marks=pytest.mark.slow if page.stem in {"large_data", "textbook", "torch_and_onnx"} else ())
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "```python" in page.read_text()
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).with_suffix("").as_posix())
def test_pages(page, tmp_path):
    text = page.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```python")
    code, printed = "\n".join(blocks), StringIO()
    plt.switch_backend("Agg")
    with chdir(tmp_path), redirect_stdout(printed):
        exec(compile(code, page.name, "exec"), {"__name__": "__main__"})
    plt.close("all")
    promised = re.findall(r"print\(.*\)  # (.*)", code)
    tables = re.findall(r"^```text\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(promised) + len(tables) == code.count("print(")
    promised += [line for table in tables for line in table.splitlines()]
    assert set(promised) == set(printed.getvalue().splitlines())


def test_the_readme_claims_what_was_measured():
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "docs" / "benchmarks" / "index.md").read_text()
    rows = re.findall(r"^\|.*\|$", readme, flags=re.MULTILINE)
    assert len(rows) > 5
    assert set(rows) <= set(page.splitlines())


def test_the_citation_names_the_latest_release():
    version, date = re.search(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).groups()
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {version}" in citation
    assert f"date-released: {date}" in citation


def public():
    """Return the name of each public class, of each member that torchpoly itself gives it, and of each function."""
    names = {f"torchpoly.inspection.{name}" for name in torchpoly.inspection.__all__}
    for name in torchpoly.__all__:
        classes = inspect.getmro(getattr(torchpoly, name)) if name[0] != "_" else ()
        for owner in classes:
            if owner.__module__.startswith("torchpoly"):
                # scikit-learn adds methods for metadata routing, and documents them.
                members = [member for member in vars(owner) if not re.match("_|set_.*_request$", member)]
                described = [member for member in members if hasattr(getattr(owner, member), "__doc__")]
                names |= {f"torchpoly.{name}", *(f"torchpoly.{name}.{member}" for member in described)}
    return sorted(names)


def examples(name):
    """Return the doctests of a public name, which pytest looks for in the module where its code stands."""
    found = reduce(getattr, name.split(".")[1:], torchpoly)
    return DocTestFinder(recurse=False).find(found, name, module=False, globs={})


@pytest.mark.parametrize("name", [name for name in public() if any(test.examples for test in examples(name))])
def test_examples(name):
    report, (example,) = [], examples(name)
    runner = DocTestRunner()
    runner.run(example, out=report.append)
    plt.close("all")
    assert not runner.failures, "".join(report)


def test_examples_are_as_many_as_in_the_first_version():
    assert len([test for name in public() for test in examples(name) if test.examples]) >= 14


@pytest.mark.parametrize("name", public())
def test_numpydoc_validation(name):
    # An extended summary only where there is more to say. Members have their class for context, and
    # attributes its example.
    ignored = {"ES01"} if name.count(".") == 1 else {"ES01", "SA01"}
    found = validate(name)
    if found["type"] == "property":
        ignored |= {"EX01"}
    assert [error for error in found["errors"] if error[0] not in ignored] == []
