"""Run all benchmarks, and rewrite the pages with what they measure.

Each script prints Markdown, which replaces what stands below the mark in its page; the table *In short* of the overview
replaces the one in the README. It takes about 35 minutes on two cores, needs 24 GiB of memory, and wants a machine
that does nothing else. Run with::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/run.py

or with names of scripts, such as ``fit losses``, for these alone.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGES = {
    "overview": "index.md",
    "fit": "fit.md",
    "losses": "losses.md",
    "search": "search.md",
    "scale": "scale.md",
    "accuracy": "accuracy.md",
    "untuned": "untuned.md",
}
MARK = "<!-- below: written by run.py -->\n"
START, END = "<!-- written by docs/benchmarks/run.py -->\n", "<!-- end -->\n"


def main():
    for name in sys.argv[1:] or PAGES:
        command = [sys.executable, HERE / f"{name}.py"]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        page = HERE / PAGES[name]
        page.write_text(page.read_text().partition(MARK)[0] + MARK + "\n" + printed.rstrip() + "\n")
        if name == "overview":
            short = next(part for part in printed.split("\n\n") if part.startswith("| task"))
            readme = HERE.parents[1] / "README.md"
            before, _, rest = readme.read_text().partition(START)
            readme.write_text(f"{before}{START}\n{short}\n\n{END}{rest.partition(END)[2]}")
        print(f"{page.name} is written.", flush=True)


if __name__ == "__main__":
    main()
