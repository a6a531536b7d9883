"""PolynomialGridSearchCV and GridSearchCV, side by side.

Every round times each contestant once, in turn, in this one process; medians of all rounds and their
ratios are printed as Markdown tables. Run with::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/search.py
"""

import tracemalloc
import warnings
from functools import partial

import numpy as np
from side_by_side import alternate, environment, table
from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

ROWS = [2_000, 20_000, 100_000]
ALPHAS = np.geomspace(1e-6, 1, 10).tolist()


def surface(n_rows, n_columns=5):
    """Friedman's first test function: a wave, a parabola and two lines, under noise."""
    X, y = make_friedman1(n_rows, 5, noise=1.0, random_state=0)
    return X[:, :n_columns], y


def compare(contestants, X, y, rounds):
    """Return seconds and best scores."""
    times = alternate({name: partial(search.fit, X, y) for name, search in contestants.items()}, rounds)
    return times, {name: search.best_score_ for name, search in contestants.items()}


def degrees_and_penalties():
    rows = [
        [
            "rows x 5, 5 degrees x 10 alphas x 5 folds",
            "PolynomialGridSearchCV, ms",
            "GridSearchCV, Ridge pipeline, n_jobs=2, ms",
            "ratio",
            "GridSearchCV, same estimator, ms",
            "ratio",
            "best R2, ours and Ridge's",
        ]
    ]
    for n_rows in ROWS:
        X, y = surface(n_rows)
        ridge = make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(), Ridge(solver="cholesky"))
        ridge_grid = {
            "polynomialfeatures__degree": [1, 2, 3, 4, 5],
            "ridge__alpha": [alpha * 0.8 * n_rows for alpha in ALPHAS],
        }
        grid = {"degree": [1, 2, 3, 4, 5], "alpha": ALPHAS}
        contestants = {
            "ours": PolynomialGridSearchCV(TorchPolynomialRegressor(), grid),
            "ridge": GridSearchCV(ridge, ridge_grid, n_jobs=2),
            "same": GridSearchCV(TorchPolynomialRegressor(), grid),
        }
        times, scores = compare(contestants, X, y, 5 if n_rows < 100_000 else 3)
        rows.append(
            [
                n_rows,
                f"{1000 * times['ours']:.0f}",
                f"{1000 * times['ridge']:.0f}",
                f"{times['ridge'] / times['ours']:.0f}",
                f"{1000 * times['same']:.0f}",
                f"{times['same'] / times['ours']:.0f}",
                f"{scores['ours']:.6f}, {scores['ridge']:.6f}",
            ]
        )
    table(rows)


def optimizers():
    rows = [["20000 x 5, 5 folds", "together, ms", "one by one, ms", "ratio", "greatest difference of a score"]]
    X, y = surface(20_000)
    rates = {"lr": [0.01, 0.03, 0.1, 0.3], "degree": [1, 2, 3]}
    cases = {
        "4 rates x 3 optimizers x 3 degrees, 300 iterations": (
            TorchPolynomialRegressor(n_iter=300, tol=None),
            rates | {"optimizer": ["adam", "sgd", "rmsprop"]},
        ),
        "the same until tol=1e-8": (
            TorchPolynomialRegressor(n_iter=300),
            rates | {"optimizer": ["adam", "sgd", "rmsprop"]},
        ),
        "the same, Adam in the Chebyshev basis": (
            TorchPolynomialRegressor(n_iter=300, tol=None, basis="chebyshev", optimizer="adam"),
            rates,
        ),
    }
    for name, (estimator, grid) in cases.items():
        contestants = {
            "together": PolynomialGridSearchCV(estimator, grid),
            "one by one": GridSearchCV(estimator, grid),
        }
        rows.append([name, *row_of(contestants, X, y, 5)])
    table(rows)


def row_of(contestants, X, y, rounds):
    times, _ = compare(contestants, X, y, rounds)
    first, second = (search.cv_results_["mean_test_score"] for search in contestants.values())
    milliseconds = [f"{1000 * time:.0f}" for time in times.values()]
    ratio = times["one by one"] / times["together"]
    return [*milliseconds, f"{ratio:.1f}", f"{np.abs(first - second).max():.0e}"]


def memory():
    """What NumPy allocates at the most, for a metric that needs predictions."""
    rows = [["100000 x 3, 5 folds, degrees 1 to 4, mean absolute error", "MB beyond the data"]]
    X, y = surface(100_000, 3)
    for n_alphas in [3, 30, 300]:
        grid = {"degree": [1, 2, 3, 4], "alpha": np.geomspace(1e-6, 1, n_alphas).tolist()}
        search = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid, scoring="neg_mean_absolute_error")
        tracemalloc.start()
        search.fit(X, y)
        rows.append([f"{4 * n_alphas} candidates", f"{tracemalloc.get_traced_memory()[1] / 1e6:.0f}"])
        tracemalloc.stop()
    table(rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(environment())
    print("## Degrees and penalties, by default settings\n")
    degrees_and_penalties()
    print("## Optimizers and learning rates, beside GridSearchCV over the same estimator\n")
    optimizers()
    print("## Memory\n")
    memory()
