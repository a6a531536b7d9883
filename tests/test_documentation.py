"""What people paste runs, and says what the page says it does."""

import re
import runpy
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("page", "n_blocks", "n_promised"),
    [("README.md", 5, 7), ("docs/large_data.md", 3, 4)],
    ids=["README", "large_data"],
)
def test_pages(page, n_blocks, n_promised, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == n_blocks
    printed = StringIO()
    with chdir(tmp_path), redirect_stdout(printed):
        exec("\n".join(blocks), {"__name__": "__main__"})
    promised = re.findall(r"print\(.*\)  # (.*)", "\n".join(blocks))
    assert len(promised) == n_promised
    assert set(promised) <= set(printed.getvalue().splitlines())


@pytest.mark.parametrize("script", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_save_their_picture(script, tmp_path):
    plt.switch_backend("Agg")
    with chdir(tmp_path):
        runpy.run_path(str(script), run_name="__main__")
    plt.close("all")
    assert (tmp_path / f"{script.stem}.png").stat().st_size > 10_000
