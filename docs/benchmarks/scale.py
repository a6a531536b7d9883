"""How time and memory grow with the rows: torchpoly, scikit-learn, threads, Dask workers, GPUs.

Contestants of a row of a table run in turn in this one process; medians of all rounds and their
ratios are printed as Markdown tables. Peaks of memory are those of processes of their own, beyond
what these take before they fit. Run with (on Linux or macOS, with 24 GiB of memory)::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/scale.py
"""

import json
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import dask
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import torch
from distributed import Client, LocalCluster, wait
from side_by_side import Peak, alone, alternate, environment, picture, table
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures
from threadpoolctl import threadpool_limits

from torchpoly import TorchPolynomialRegressor

ROWS = [10_000, 100_000, 1_000_000, 3_000_000, 10_000_000]
IN_MEMORY = 1_000_000  # up to which scikit-learn's pipeline is run in turn with torchpoly
LIMIT = 20 * 2**30  # bytes of memory that a process of its own may take


def rows(n_rows, n_columns=10, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_rows, n_columns)).astype(dtype)
    return X, X[:, 0] * X[:, 1] - X[:, 2] ** 3 + 0.1 * rng.normal(size=n_rows)


def pipeline():
    # An alpha of next to nothing: without one, Cholesky factors fail where columns nearly coincide.
    return make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(3), Ridge(1e-6, solver="cholesky"))


CONTESTANTS = {"torchpoly": partial(TorchPolynomialRegressor, 3), "scikit-learn": pipeline}


def measure(name, n_rows, n_columns):
    """Print the seconds and megabytes that a fit and a prediction take in this process."""
    if name == "scikit-learn":
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    X, y = rows(n_rows, n_columns)
    if n_rows < n_columns**3:
        X_new = rows(n_rows, n_columns, seed=1)[0]
    else:
        X_new = X[: n_rows // 2]
    CONTESTANTS["torchpoly"]().fit(X[:300, :2], y[:300])  # what comes once in a process
    peak = Peak()
    model = CONTESTANTS[name]()
    start = perf_counter()
    try:
        model.fit(X, y)
        fitted, seconds = peak.megabytes, perf_counter() - start
        start = perf_counter()
        model.predict(X_new)
    except MemoryError:
        print(json.dumps(None))
        return
    print(json.dumps([seconds, fitted, perf_counter() - start, peak.megabytes]))


def by_rows():
    header = ["rows x 10, degree 3 (286 terms)", "torchpoly, s", "scikit-learn, s", "ratio", "torchpoly, us a row"]
    body = [[*header, "torchpoly, MB", "scikit-learn, MB"]]
    measured = {name: [] for name in CONTESTANTS}
    for n_rows in ROWS:
        ours, theirs = (alone(__file__, name, n_rows, 10) for name in CONTESTANTS)
        times = {"torchpoly": ours[0]}
        if n_rows <= IN_MEMORY:
            X, y = rows(n_rows)
            fits = {name: partial(make().fit, X, y) for name, make in CONTESTANTS.items()}
            times = alternate(fits, 9 if n_rows < IN_MEMORY else 3)
        elif theirs is not None:
            times["scikit-learn"] = theirs[0]
        other = times.get("scikit-learn")
        measured["torchpoly"].append((n_rows, times["torchpoly"], ours[1]))
        if theirs:
            measured["scikit-learn"].append((n_rows, other, theirs[1]))
        body.append(
            [
                f"{n_rows:,}",
                f"{times['torchpoly']:.3g}",
                f"{other:.3g}" if other else "-",
                f"{other / times['torchpoly']:.1f}" if other else "-",
                f"{1e6 * times['torchpoly'] / n_rows:.2f}",
                f"{ours[1]:.0f}",
                f"{theirs[1]:.0f}" if theirs else f"more than {LIMIT / 1e6:.0f}",
            ]
        )
    table(body)
    draw(measured)


def draw(measured):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    styles = {"torchpoly": ("tab:red", "o"), "scikit-learn": ("tab:blue", "s")}
    for name, (color, marker) in styles.items():
        n_rows, seconds, megabytes = zip(*measured[name], strict=True)
        axes[0].loglog(n_rows, seconds, color=color, marker=marker, label=name)
        axes[1].loglog(n_rows, megabytes, color=color, marker=marker, label=name)
    axes[1].axhline(LIMIT / 1e6, color="0.5", linestyle=":", label="the machine's limit")
    axes[0].set(title="Time of a fit", xlabel="rows", ylabel="seconds")
    axes[1].set(title="Memory beyond the data", xlabel="rows", ylabel="MB")
    axes[0].legend(frameon=False)
    axes[1].legend(frameon=False)
    picture(figure, "scale", "Time and memory of a fit by the number of rows, beside scikit-learn's pipeline")


def from_a_file():
    """A float32 memory map beside the machine's own matrix product of that size."""
    n_rows, n_terms = 3_000_000, 286
    with tempfile.TemporaryDirectory() as folder:
        X, y = rows(n_rows, dtype=np.float32)
        np.save(Path(folder) / "X.npy", X)
        X = np.load(Path(folder) / "X.npy", mmap_mode="r")
        chunk = np.random.default_rng(0).normal(size=(n_terms, 3000))

        def product():
            for _ in range(n_rows // chunk.shape[1]):
                chunk @ chunk.T

        model = TorchPolynomialRegressor(3)
        times = alternate({"fit": partial(model.fit, X, y), "product": product}, 3)
        times |= alternate({"predict": partial(model.predict, X)}, 3)
    ratio = times["fit"] / times["product"]
    table(
        [
            ["3,000,000 x 10 float32 in a file", "fit, s", "matrix product, s", "fit / product", "predict, s"],
            ["torchpoly", *(f"{value:.3g}" for value in (times["fit"], times["product"], ratio, times["predict"]))],
        ]
    )


def more_terms_than_rows():
    body = [["500 x 100, degree 3 (176,851 terms)", "fit, s", "fit, MB", "predict 500 rows, s", "both, MB"]]
    measured = {name: [alone(__file__, name, 500, 100) for _ in range(3)] for name in CONTESTANTS}
    medians = {name: np.median(values, axis=0) for name, values in measured.items()}
    body += [[name, *(f"{value:.3g}" for value in values)] for name, values in medians.items()]
    body.append(["ratio", *(f"{value:.1f}" for value in medians["scikit-learn"] / medians["torchpoly"])])
    table(body)


def threads():
    X, y = rows(IN_MEMORY)

    def limited(make, n_threads):
        with threadpool_limits(n_threads):
            make().fit(X, y)

    runs = {(name, n): partial(limited, make, n) for name, make in CONTESTANTS.items() for n in (1, 2)}
    times = alternate(runs, 3)
    body = [["1,000,000 x 10, degree 3", "1 thread, s", "2 threads, s", "ratio"]]
    for name in CONTESTANTS:
        one, two = times[name, 1], times[name, 2]
        body.append([name, f"{one:.3g}", f"{two:.3g}", f"{one / two:.2f}"])
    table(body)


def block(number):
    X, y = rows(250_000, seed=number)
    return np.column_stack([X, y])


def dask_workers():
    n_blocks = 8
    make = dask.delayed(block)
    seconds = {}
    whole = np.concatenate([block(number) for number in range(n_blocks)])
    X, y = np.ascontiguousarray(whole[:, :10]), whole[:, 10].copy()
    with threadpool_limits(1):
        seconds["in memory, 1 thread"] = alternate({"": partial(TorchPolynomialRegressor(3).fit, X, y)}, 3)[""]
    for n_workers in (1, 2):
        with LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0") as local, Client(local):
            parts = [da.from_delayed(make(number), (250_000, 11), float) for number in range(n_blocks)]
            rows_there = da.concatenate(parts).persist()
            wait(rows_there)
            fit = partial(TorchPolynomialRegressor(3).fit, rows_there[:, :10], rows_there[:, 10])
            seconds[f"Dask, workers: {n_workers}"] = alternate({"": fit}, 3)[""]
    alone_seconds = seconds["in memory, 1 thread"]
    body = [["2,000,000 x 10, degree 3", "fit, s", "in memory / this"]]
    body += [[name, f"{value:.3g}", f"{alone_seconds / value:.2f}"] for name, value in seconds.items()]
    table(body)


def accelerators():
    device = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), None)
    if device is None:
        print("There was none.\n")
        return
    X, y = rows(10_000_000)
    basis = TorchPolynomialRegressor(3).fit(X[:1000], y[:1000])._polynomial.basis

    def materialised(size=1_000_000):
        """Solve each chunk's features by least squares, and average: what fits on the device at a time."""
        total = 0.0
        for start in range(0, len(X), size):
            features = basis.evaluate(torch.from_numpy(X[start : start + size].T.copy()).to(device)).T
            target = torch.from_numpy(y[start : start + size, None]).to(device)
            total = total + torch.linalg.lstsq(features, target).solution
        return (total / (len(X) / size)).cpu()

    runs = {
        "CPU": TorchPolynomialRegressor(3).fit,
        device: TorchPolynomialRegressor(3, device=device).fit,
        "torch.linalg.lstsq on chunks": lambda X, y: materialised(),
    }
    times = alternate({name: partial(run, X, y) for name, run in runs.items()}, 3)
    body = [["10,000,000 x 10, degree 3", "s", f"this / {device}"]]
    table([*body, *([name, f"{value:.3g}", f"{value / times[device]:.2f}"] for name, value in times.items())])


def main():
    print(environment())
    print("## By the number of rows\n")
    by_rows()
    print("## From a file\n")
    from_a_file()
    print("## More terms than rows\n")
    more_terms_than_rows()
    print("## Threads\n")
    threads()
    print("## Dask workers\n")
    dask_workers()
    print("## GPU\n")
    accelerators()


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
