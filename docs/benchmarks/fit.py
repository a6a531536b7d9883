"""Time of a fit: torchpoly, scikit-learn's pipelines, skorch and the textbook loop, side by side.

Every round times each contestant once, in turn, in this one process; medians of all rounds and their
ratios are printed as Markdown tables. Run with::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/fit.py
"""

import warnings

import numpy as np
import torch
from overview import sine, sine_linear_layer, sine_skorch
from side_by_side import alternate, environment, table
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from torchpoly import TorchPolynomialRegressor

SHAPES = [
    (200, 1, 3),
    (2000, 1, 12),
    (2000, 4, 3),
    (100_000, 5, 3),
    (100_000, 10, 3),
    (1_000_000, 5, 3),
    (1_000_000, 1, 10),
]


def surface(n_rows, n_features):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_rows, n_features))
    return X, np.sin(3 * X.sum(axis=1)) + 0.1 * rng.normal(size=n_rows)


def pipelines(X, y, degree):
    estimators = {
        "torchpoly": TorchPolynomialRegressor(degree),
        "LinearRegression": LinearRegression(),
        "Ridge(cholesky)": Ridge(solver="cholesky"),
        "Ridge(auto)": Ridge(),
    }
    for name, estimator in estimators.items():
        if name != "torchpoly":
            estimator = make_pipeline(StandardScaler(), PolynomialFeatures(degree), estimator)
        yield name, lambda estimator=estimator: estimator.fit(X, y)


def fits(shapes, rounds, before=None):
    rows = []
    for n_rows, n_features, degree in shapes:
        X, y = surface(n_rows, n_features)
        times = alternate(dict(pipelines(X, y, degree)), rounds(n_rows), before)
        ours = times.pop("torchpoly")
        if not rows:
            rows.append(["rows x features x degree", "torchpoly, ms", *(f"{name}, ms" for name in times)])
            rows[0] += [f"{name} / torchpoly" for name in times]
        row = [
            f"{n_rows} x {n_features} x {degree}",
            f"{1000 * ours:.2f}",
            *(f"{1000 * t:.2f}" for t in times.values()),
        ]
        rows.append([*row, *(f"{t / ours:.2f}" for t in times.values())])
    table(rows)


def passes(shapes):
    """The whole fit against the product of a matrix of its size, by NumPy and by torch."""
    rows = [["rows x terms", "fit, ms", "NumPy's product, ms", "torch's product, ms", "fit / NumPy's", "fit / torch's"]]
    for n_rows, n_features, degree in shapes:
        X, y = surface(n_rows, n_features)
        n_terms = PolynomialFeatures(degree).fit(X[:1]).n_output_features_
        chunk = np.random.default_rng(0).normal(size=(n_terms, 4096))
        other, tensor = chunk.copy(), torch.from_numpy(chunk)
        repetitions = range(-(-n_rows // 4096))
        contestants = {
            "fit": lambda: TorchPolynomialRegressor(degree).fit(X, y),  # noqa: B023
            # A copy, so that NumPy does the whole product rather than half of a symmetric one.
            "numpy": lambda: [chunk @ other.T for _ in repetitions],  # noqa: B023
            "torch": lambda: [tensor @ tensor.T for _ in repetitions],  # noqa: B023
        }
        times = alternate(contestants, 5)
        milliseconds = [f"{1000 * time:.1f}" for time in times.values()]
        ratios = [f"{times['fit'] / times[name]:.2f}" for name in ("numpy", "torch")]
        rows.append([f"{n_rows} x {n_terms}", *milliseconds, *ratios])
    table(rows)


def loops():
    """The textbook program (c), skorch on it, as many iterations of torchpoly, and the optimum."""
    X, y = sine()
    same = TorchPolynomialRegressor(basis="monomial", optimizer="rmsprop", lr=1e-3, n_iter=2400, tol=None)
    orthonormal = TorchPolynomialRegressor(optimizer="rmsprop", lr=1e-3, n_iter=2400, tol=None)
    contestants = {
        "loop (c), 2400 iterations": lambda: sine_linear_layer(X, y),
        "skorch on (c), 2400 epochs": lambda: sine_skorch(X, y),
        "torchpoly, basis='monomial', 2400 iterations": lambda: same.fit(X, y),
        "torchpoly, RMSprop, 2400 iterations": lambda: orthonormal.fit(X, y),
        "torchpoly, the optimum": lambda: TorchPolynomialRegressor().fit(X, y),
    }
    times = alternate(contestants, 3)
    reference = times["loop (c), 2400 iterations"]
    rows = [["2000 points, cubic", "ms", "loop (c) / this"]]
    rows += [[name, f"{1000 * time:.2f}", f"{reference / time:.2f}"] for name, time in times.items()]
    table(rows)


def main():
    print(environment())
    print("## A fit\n")
    fits(SHAPES, rounds=lambda n_rows: 15 if n_rows < 10_000 else 7)
    print("## The same right after scikit-learn has used its threads, in KMeans\n")
    rows = np.random.default_rng(0).normal(size=(5000, 4))
    fits(SHAPES[:3], rounds=lambda _: 50, before=lambda: KMeans(8, n_init=1, max_iter=5, random_state=0).fit(rows))
    print("## The pass over the data\n")
    passes(SHAPES[3:])
    print("## The textbook loop\n")
    loops()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        main()
