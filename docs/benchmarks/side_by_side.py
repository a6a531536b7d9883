"""How the benchmarks time contestants and print what they found."""

import platform
from statistics import median
from time import perf_counter

import numpy as np
import sklearn
import torch

import torchpoly


def alternate(contestants, rounds, before=None):
    """Return the median seconds of each contestant, run in turn in every round.

    What takes less than 20 ms is repeated until it lasts that long, as ``timeit`` does, unless
    something else must come right before it.
    """
    repetitions = {}
    for name, run in contestants.items():
        run()
        start = perf_counter()
        run()
        repetitions[name] = 1 if before else max(1, round(0.02 / (perf_counter() - start)))
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


def table(rows):
    header, *body = [[str(cell) for cell in row] for row in rows]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n", flush=True)


def environment():
    return (
        f"torchpoly {torchpoly.__version__}, scikit-learn {sklearn.__version__}, torch {torch.__version__}, NumPy "
        f"{np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads\n"
    )
