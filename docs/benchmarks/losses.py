"""Robust and quantile losses: torchpoly and scikit-learn's pipelines, and the optimizers, side by side.

Every round times each contestant once, in turn, in this one process; medians of all rounds and their
ratios are printed as Markdown tables. Run with::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/losses.py
"""

import warnings
from functools import partial

import numpy as np
import torch
from side_by_side import alternate, environment, table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import HuberRegressor, QuantileRegressor
from sklearn.metrics import mean_pinball_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from torchpoly import TorchPolynomialRegressor

# Linear programming on 100000 rows takes longer than anyone would wait.
QUANTILE_ROWS, HUBER_ROWS = [2_000, 6_000, 20_000], [2_000, 20_000, 100_000]
OPTIMIZERS = ["lbfgs", "adam", "adamw", "nadam", "rmsprop", "adagrad", "adadelta", "rprop", "sgd"]


def heavy_tailed(n_rows):
    """A smooth surface over 3 columns under noise of Student's t with 1.5 degrees of freedom."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_rows, 3))
    return X, X[:, 0] ** 3 - 2 * X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + 0.3 * rng.standard_t(1.5, n_rows)


def pipeline(regressor):
    return make_pipeline(StandardScaler(), PolynomialFeatures(3, include_bias=False), regressor)


def alternate_fits(models, X, y, rounds):
    return alternate({name: partial(model.fit, X, y) for name, model in models.items()}, rounds)


def quantiles():
    rows = [["rows x 3, degree 3", "quantile", "torchpoly, ms", "QuantileRegressor, ms", "ratio", "loss above its"]]
    for n_rows in QUANTILE_ROWS:
        X, y = heavy_tailed(n_rows)
        for quantile in (0.1, 0.5, 0.9):
            ours = TorchPolynomialRegressor(loss="quantile", quantile=quantile)
            program = pipeline(QuantileRegressor(quantile=quantile, alpha=0))
            times = alternate_fits({"ours": ours, "program": program}, X, y, 3)
            losses = [mean_pinball_loss(y, model.predict(X), alpha=quantile) for model in (ours, program)]
            ratio = times["program"] / times["ours"]
            milliseconds = [f"{1000 * time:.1f}" for time in times.values()]
            rows.append([n_rows, quantile, *milliseconds, f"{ratio:.0f}", f"{losses[0] / losses[1] - 1:.1e}"])
    table(rows)


def huber():
    rows = [["rows x 3, degree 3", "torchpoly, ms", "HuberRegressor, ms", "ratio", "mean difference in deviations"]]
    for n_rows in HUBER_ROWS:
        X, y = heavy_tailed(n_rows)
        ours = TorchPolynomialRegressor(loss="huber")
        theirs = pipeline(HuberRegressor(alpha=0, max_iter=10_000))
        times = alternate_fits({"ours": ours, "theirs": theirs}, X, y, 7)
        difference = np.abs(ours.predict(X) - theirs.predict(X)).mean() / theirs.predict(X).std()
        milliseconds = [f"{1000 * time:.1f}" for time in times.values()]
        rows.append([n_rows, *milliseconds, f"{times['theirs'] / times['ours']:.1f}", f"{difference:.1e}"])
    table(rows)


def optimizers():
    """Every optimizer at its defaults; for absolute errors, kinks leave only L-BFGS to meet `tol`."""
    X, y = heavy_tailed(20_000)
    losses = ["squared_error", "huber", "absolute_error"]
    rows = [["20000 x 3, degree 3", *(f"{loss}: ms, iterations, loss above the least" for loss in losses)]]
    columns = []
    for loss in losses:
        models = {name: TorchPolynomialRegressor(loss=loss, optimizer=name) for name in OPTIMIZERS}
        times = alternate_fits(models, X, y, 3)
        least = min(model.loss_curve_[-1] for model in models.values())
        columns.append(
            [
                f"{1000 * times[name]:.1f}, {model.n_iter_}, {model.loss_curve_[-1] / least - 1:.0e}"
                for name, model in models.items()
            ]
        )
    rows += [list(row) for row in zip(OPTIMIZERS, *columns, strict=True)]
    table(rows)


def batches():
    X, y = heavy_tailed(20_000)
    best = TorchPolynomialRegressor(loss="huber").fit(X, y).predict(X)
    rows = [["20000 x 3, degree 3, Huber, Adam", "ms", "mean difference from the optimum, in deviations"]]
    settings = {"all rows, 60 iterations": None, "batches of 256, 60 passes": 256, "batches of 2048, 60 passes": 2048}
    models = {
        name: TorchPolynomialRegressor(loss="huber", optimizer="adam", batch_size=size, n_iter=60)
        for name, size in settings.items()
    }
    times = alternate_fits(models, X, y, 3)
    for name, model in models.items():
        difference = np.abs(model.predict(X) - best).mean() / best.std()
        rows.append([name, f"{1000 * times[name]:.0f}", f"{difference:.1e}"])
    table(rows)


def callables():
    """What a loss costs that torch differentiates, beside the same one by name."""
    X, y = heavy_tailed(20_000)
    rows = [["20000 x 3, degree 3", "ms", "iterations"]]
    losses = {
        "squared_error": "squared_error",
        "(y_pred - y_true)**2": lambda y_pred, y_true: (y_pred - y_true) ** 2,
        "huber": "huber",
        "torch.nn.HuberLoss()": torch.nn.HuberLoss(),
    }
    models = {name: TorchPolynomialRegressor(loss=loss) for name, loss in losses.items()}
    times = alternate_fits(models, X, y, 7)
    rows += [[name, f"{1000 * times[name]:.1f}", model.n_iter_] for name, model in models.items()]
    table(rows)


def main():
    print(environment())
    print("## Quantiles, beside the optimum of linear programming\n")
    quantiles()
    print("## Huber's loss with its scale\n")
    huber()
    print("## The optimizers at their defaults\n")
    optimizers()
    print("## Mini-batches\n")
    batches()
    print("## Losses as functions\n")
    callables()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        main()
