"""How the benchmarks time contestants, measure their memory, and print what they found."""

import json
import platform
import subprocess
import sys
import threading
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil
import torch

PACKAGES = ["torchpoly", "scikit-learn", "torch", "numpy", "scipy", "skorch", "poly-basis-ml", "dask"]
IMAGES = Path(__file__).parents[1] / "images"


def alternate(contestants, rounds, before=None):
    """Return the median seconds of each contestant, run in turn in every round.

    Each runs once or twice before that. What takes less than 20 ms is repeated until it lasts that long, as ``timeit``
    does, unless something else must come right before it.
    """
    repetitions = {}
    for name, run in contestants.items():
        for _ in range(2):
            start = perf_counter()
            run()
            seconds = perf_counter() - start
            if seconds > 1:
                break
        repetitions[name] = 1 if before else max(1, round(0.02 / seconds))
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            if before:
                before()
            start = perf_counter()
            for _ in range(repetitions[name]):
                run()
            times[name].append((perf_counter() - start) / repetitions[name])
    return {name: median(values) for name, values in times.items()}


class Peak:
    """The most memory that this process has taken since then, in megabytes beyond what it had."""

    def __init__(self):
        self._process, self._ended = psutil.Process(), threading.Event()
        self._before = self._highest = self._process.memory_info().rss
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while not self._ended.wait(0.002):
            self._highest = max(self._highest, self._process.memory_info().rss)

    @property
    def megabytes(self):
        return (self._highest - self._before) / 1e6


def alone(script, *arguments):
    """Return what a process of its own prints last, as JSON; None if its memory was not enough."""
    command = [sys.executable, script, *map(str, arguments)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    return json.loads(printed.splitlines()[-1]) if printed else None


def table(rows, alignment="---:"):
    header, *body = [[str(cell) for cell in row] for row in rows]
    lines = [header, ["---", *[alignment] * (len(header) - 1)], *body]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n", flush=True)


def picture(figure, name, text):
    """Save a figure among the documentation's images, and print the link to it."""
    figure.savefig(IMAGES / f"{name}.png", dpi=110)
    print(f"![{text}](../images/{name}.png)\n", flush=True)


def processor():
    """Return the name of the processor, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def environment():
    """Return the date, the machine and the versions, in two lines."""
    machine = (
        f"{processor()}, {torch.get_num_threads()} threads, {psutil.virtual_memory().total / 2**30:.0f} GiB of memory, "
        f"{platform.system()}"
    )
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Measured on {date.today()}: {machine}.\nPython {platform.python_version()}, {versions}.\n"
