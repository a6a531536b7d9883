"""Seven tasks by torchpoly and by what else there is: time, memory, accuracy, and lines of code.

A program of a task is the body of a function from X and y to predictions of y at X, as a user would write it; its
lines are counted. Programs of a task run in turn in this one process, and each once more in a process of its own,
whose peak of memory is taken, beyond what the process had before. Run with::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/overview.py
"""

import inspect
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from accuracy import digits, reference
from poly_basis_ml import ChebyshevRegressor
from side_by_side import Peak, alone, alternate, environment, picture, table
from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import HuberRegressor, LinearRegression, QuantileRegressor, Ridge
from sklearn.metrics import mean_pinball_loss, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler
from skorch import NeuralNetRegressor

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

TORCHPOLY = "torchpoly"


@dataclass
class Task:
    """A task, its programs by name, and which of them stands beside torchpoly in the README."""

    title: str
    data: Callable
    accuracy: str
    judge: Callable
    programs: dict[str, Callable]
    beside: str


# A cubic for a sine: the first program of torch's tutorials, on its data.
def sine():
    x = np.linspace(-np.pi, np.pi, 2000)
    return x[:, None], np.sin(x)


def sine_torchpoly(X, y):
    return TorchPolynomialRegressor(degree=3).fit(X, y).predict(X)


def sine_by_hand(X, y):
    x = X[:, 0]
    a, b, c, d = np.random.default_rng(0).normal(size=4)
    for _ in range(2400):
        grad = 2 * (a + b * x + c * x**2 + d * x**3 - y)
        a -= 1e-6 * grad.sum()
        b -= 1e-6 * (grad * x).sum()
        c -= 1e-6 * (grad * x**2).sum()
        d -= 1e-6 * (grad * x**3).sum()
    return a + b * x + c * x**2 + d * x**3


def sine_autograd(X, y):
    x, target = torch.tensor(X[:, 0]), torch.tensor(y)
    weights = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for _ in range(2400):
        y_pred = weights[0] + weights[1] * x + weights[2] * x**2 + weights[3] * x**3
        loss = (y_pred - target).pow(2).sum()
        loss.backward()
        with torch.no_grad():
            weights -= 1e-6 * weights.grad
            weights.grad = None
    return y_pred.detach().numpy()


def sine_linear_layer(X, y):
    features = torch.tensor(X, dtype=torch.float32) ** torch.tensor([1, 2, 3])
    target = torch.tensor(y, dtype=torch.float32)
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0, 1))
    loss_function = torch.nn.MSELoss(reduction="sum")
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for _ in range(2400):
        loss = loss_function(model(features), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model(features).detach().numpy()


def sine_skorch(X, y):
    features = torch.tensor(X, dtype=torch.float32) ** torch.tensor([1, 2, 3])
    net = NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=3,
        module__out_features=1,
        criterion__reduction="sum",
        optimizer=torch.optim.RMSprop,
        lr=1e-3,
        max_epochs=2400,
        batch_size=-1,
        train_split=None,
        verbose=0,
    )
    return net.fit(features, y[:, None].astype(np.float32)).predict(features)[:, 0]


def sine_pipeline(X, y):
    return make_pipeline(PolynomialFeatures(3), LinearRegression()).fit(X, y).predict(X)


def sine_numpy(X, y):
    return np.polynomial.Chebyshev.fit(X[:, 0], y, 3)(X[:, 0])


def sine_poly_basis_ml(X, y):
    return ChebyshevRegressor(complexity=3, alpha=1e-12).fit(X, y).predict(X)


# A high degree: 30, on the same interval.
def wiggles():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-1, 1, 2000))
    return x[:, None], np.sin(12 * x**2 + 5 * x) + 0.1 * rng.normal(size=2000)


def wiggles_torchpoly(X, y):
    return TorchPolynomialRegressor(degree=30).fit(X, y).predict(X)


def wiggles_pipeline(X, y):
    return make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(30), LinearRegression()).fit(X, y).predict(X)


def wiggles_numpy(X, y):
    return np.polynomial.Chebyshev.fit(X[:, 0], y, 30)(X[:, 0])


def wiggles_poly_basis_ml(X, y):
    return ChebyshevRegressor(complexity=30, alpha=1e-12).fit(X, y).predict(X)


# Many rows. The target is a polynomial: least squares must give it back.
def many_rows(n_rows=1_000_000):
    X = np.random.default_rng(0).uniform(-1, 1, (n_rows, 10))
    return X, X[:, 0] * X[:, 1] - X[:, 2] ** 3


def rows_torchpoly(X, y):
    return TorchPolynomialRegressor(degree=3).fit(X, y).predict(X)


def rows_ridge(X, y):
    pipeline = make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(3), Ridge(1e-6, solver="cholesky"))
    return pipeline.fit(X, y).predict(X)


def rows_linear_regression(X, y):
    return make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(3), LinearRegression()).fit(X, y).predict(X)


# More terms than rows: 176,851 on 500.
def many_columns(n_rows=500):
    X = np.random.default_rng(0).uniform(-1, 1, (n_rows, 100))
    return X, X[:, 0] + X[:, 1] * X[:, 2]


def columns_torchpoly(X, y):
    return TorchPolynomialRegressor(degree=3, alpha=1e-6).fit(X, y).predict(X)


def columns_ridge(X, y):
    return make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(3), Ridge(1e-4)).fit(X, y).predict(X)


# Outliers: one reading in ten is wrong.
def outliers(n_rows=100_000):
    X, y = smooth(n_rows)
    y[::10] += np.random.default_rng(1).uniform(5, 20, len(y[::10]))
    return X, y


def smooth(n_rows):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_rows, 3))
    return X, truth(X) + 0.2 * rng.normal(size=n_rows)


def truth(X):
    return X[:, 0] ** 3 - 2 * X[:, 0] * X[:, 1] + X[:, 2] ** 2


def outliers_torchpoly(X, y):
    return TorchPolynomialRegressor(degree=3, loss="huber").fit(X, y).predict(X)


def outliers_huber(X, y):
    regressor = HuberRegressor(alpha=0, max_iter=10_000)
    return make_pipeline(StandardScaler(), PolynomialFeatures(3, include_bias=False), regressor).fit(X, y).predict(X)


def outliers_loop(X, y):
    features = torch.tensor(PolynomialFeatures(3).fit_transform(X))
    target = torch.tensor(y)
    weights = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.01)
    for _ in range(1000):
        loss = torch.nn.functional.huber_loss(features @ weights, target, delta=0.27)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (features @ weights).detach().numpy()


# The 0.9 quantile.
def spread(n_rows=20_000):
    return smooth(n_rows)


def quantile_torchpoly(X, y):
    return TorchPolynomialRegressor(degree=3, loss="quantile", quantile=0.9).fit(X, y).predict(X)


def quantile_program(X, y):
    regressor = QuantileRegressor(quantile=0.9, alpha=0)
    return make_pipeline(StandardScaler(), PolynomialFeatures(3, include_bias=False), regressor).fit(X, y).predict(X)


def quantile_loop(X, y):
    features = torch.tensor(PolynomialFeatures(3).fit_transform(X))
    target = torch.tensor(y)
    weights = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.01)
    for _ in range(1000):
        residual = target - features @ weights
        loss = torch.maximum(0.9 * residual, -0.1 * residual).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (features @ weights).detach().numpy()


# A search over 5 degrees, 10 penalties and 5 folds: 250 fits.
def friedman(n_rows=100_000):
    return make_friedman1(n_rows, 5, noise=1.0, random_state=0)


def search_torchpoly(X, y):
    grid = {"degree": [1, 2, 3, 4, 5], "alpha": np.geomspace(1e-6, 1, 10)}
    return PolynomialGridSearchCV(TorchPolynomialRegressor(), grid).fit(X, y).predict(X)


def search_ridge(X, y):
    pipeline = make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(), Ridge(solver="cholesky"))
    grid = {"polynomialfeatures__degree": [1, 2, 3, 4, 5], "ridge__alpha": 0.8 * len(X) * np.geomspace(1e-6, 1, 10)}
    return GridSearchCV(pipeline, grid, n_jobs=2).fit(X, y).predict(X)


def correct_digits(degree):
    """Digits against the least squares solution in 100 digits."""
    exact = cache(lambda task: reference(*task(), degree))
    return lambda y_pred, task: f"{digits(y_pred, exact(task)):.1f}"


def digits_of_target(y_pred, task):
    return f"{digits(y_pred, task()[1]):.1f}"


def r2_of_truth(y_pred, task):
    return f"{r2_score(truth(task()[0]), y_pred):.5f}"


def pinball(y_pred, task):
    return f"{mean_pinball_loss(task()[1], y_pred, alpha=0.9):.6f}"


def r2(y_pred, task):
    return f"{r2_score(task()[1], y_pred):.5f}"


TASKS = {
    "sine": Task(
        "A cubic for a sine, 2000 points",
        sine,
        "digits",
        correct_digits(3),
        {
            TORCHPOLY: sine_torchpoly,
            "loop in NumPy": sine_by_hand,
            "loop with autograd": sine_autograd,
            "loop with nn.Linear": sine_linear_layer,
            "skorch": sine_skorch,
            "LinearRegression pipeline": sine_pipeline,
            "Chebyshev.fit": sine_numpy,
            "poly-basis-ml": sine_poly_basis_ml,
        },
        beside="loop with nn.Linear",
    ),
    "degree": Task(
        "Degree 30, 2000 x 1",
        wiggles,
        "digits",
        correct_digits(30),
        {
            TORCHPOLY: wiggles_torchpoly,
            "LinearRegression pipeline": wiggles_pipeline,
            "Chebyshev.fit": wiggles_numpy,
            "poly-basis-ml": wiggles_poly_basis_ml,
        },
        beside="LinearRegression pipeline",
    ),
    "rows": Task(
        "1,000,000 x 10, degree 3",
        many_rows,
        "digits",
        digits_of_target,
        {
            TORCHPOLY: rows_torchpoly,
            "LinearRegression pipeline": rows_linear_regression,
            "Ridge pipeline": rows_ridge,
        },
        beside="LinearRegression pipeline",
    ),
    "columns": Task(
        "500 x 100, degree 3: 176,851 terms",
        many_columns,
        "R2",
        r2,
        {TORCHPOLY: columns_torchpoly, "Ridge pipeline": columns_ridge},
        beside="Ridge pipeline",
    ),
    "outliers": Task(
        "One outlier in ten, 100,000 x 3",
        outliers,
        "R2 of the truth",
        r2_of_truth,
        {
            TORCHPOLY: outliers_torchpoly,
            "HuberRegressor pipeline": outliers_huber,
            "loop with Adam": outliers_loop,
        },
        beside="HuberRegressor pipeline",
    ),
    "quantile": Task(
        "The 0.9 quantile, 20,000 x 3",
        spread,
        "loss",
        pinball,
        {
            TORCHPOLY: quantile_torchpoly,
            "QuantileRegressor pipeline": quantile_program,
            "loop with Adam": quantile_loop,
        },
        beside="QuantileRegressor pipeline",
    ),
    "search": Task(
        "5 degrees x 10 penalties x 5 folds, 100,000 x 5",
        friedman,
        "R2",
        r2,
        {TORCHPOLY: search_torchpoly, "GridSearchCV, Ridge pipeline": search_ridge},
        beside="GridSearchCV, Ridge pipeline",
    ),
}


def n_lines(program):
    """Return the number of lines of a program's body."""
    return len(inspect.getsource(program).strip().splitlines()) - 1


def seconds_as_text(seconds):
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{seconds:.2g} s"


def megabytes_as_text(megabytes):
    return "under 1" if megabytes < 1 else f"{megabytes:,.0f}"


def ratio_as_text(ratio):
    return f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def measure(key, name):
    """Print how many megabytes a program takes in this process, after one on a few rows: what comes once."""
    task = TASKS[key]
    X, y = task.data()
    program = task.programs[name]
    program(X[:400], y[:400])
    peak = Peak()
    program(X, y)
    print(json.dumps(peak.megabytes))


def compare(key, task, rounds=3):
    """Return, of each program, seconds, megabytes, accuracy and lines."""
    X, y = task.data()
    predictions = {}

    def run(name, program):
        predictions[name] = program(X, y)

    times = alternate({name: partial(run, name, program) for name, program in task.programs.items()}, rounds)
    return {
        name: (times[name], alone(__file__, key, name), task.judge(predictions[name], task.data), n_lines(program))
        for name, program in task.programs.items()
    }


def in_short(results):
    """One row a task: torchpoly, and what stands beside it."""
    body = [["task", "torchpoly", "instead of"]]
    for key, task in TASKS.items():
        cells = []
        for name in (TORCHPOLY, task.beside):
            seconds, megabytes, accuracy, _ = results[key][name]
            value = f"{accuracy} digits" if task.accuracy == "digits" else f"{task.accuracy} {accuracy}"
            cells.append(f"{seconds_as_text(seconds)}, {megabytes_as_text(megabytes)} MB, {value}")
        body.append([task.title, cells[0], f"{task.beside}: {cells[1]}"])
    table(body, alignment="---")


def draw(results):
    """How many times as long as torchpoly the others take."""
    bars = [
        (f"{task.title}\n{name}", result[0] / results[key][TORCHPOLY][0])
        for key, task in TASKS.items()
        for name, result in results[key].items()
        if name != TORCHPOLY
    ]
    labels, ratios = zip(*reversed(bars), strict=True)
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(bars) + 0.8), layout="constrained")
    colors = ["tab:blue" if ratio > 1 else "0.7" for ratio in ratios]
    axis.barh(labels, [ratio - 1 for ratio in ratios], left=1, color=colors)
    axis.axvline(1, color="tab:red")
    axis.set(xscale="log", title="Time of fit and prediction, in torchpoly's")
    axis.tick_params(axis="y", labelsize=7)
    axis.margins(y=0.01)
    picture(figure, "overview", "Times of the other programs, as multiples of torchpoly's")


def main():
    print(environment())
    results = {key: compare(key, task) for key, task in TASKS.items()}
    print("## In short\n")
    in_short(results)
    print("## All programs\n")
    draw(results)
    for key, task in TASKS.items():
        ours = results[key][TORCHPOLY][0]
        body = [[task.title, "time", "this / torchpoly", "MB", task.accuracy, "lines"]]
        for name, (seconds, megabytes, accuracy, lines) in results[key].items():
            row = [name, seconds_as_text(seconds), ratio_as_text(seconds / ours), megabytes_as_text(megabytes)]
            body.append([*row, accuracy, lines])
        table(body)


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        main()
