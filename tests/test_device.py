"""Other devices than NumPy's CPU: here the CPU as torch sees it, and where there is one, a GPU.

``device="cpu:0"`` takes the way of a GPU, with tensors.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from torchpoly import (
    PolynomialGridSearchCV,
    TorchPolynomialRegressor,
    _basis,
    _candidates,
    _device,
    _domain,
    _few_rows,
    _reading,
)
from torchpoly._gram import GramStatistics

GPUS = [
    pytest.param(name, marks=[pytest.mark.gpu, pytest.mark.skipif(not present, reason=f"no {name} device here")])
    for name, present in [("cuda", torch.cuda.is_available()), ("xpu", torch.xpu.is_available())]
]
DEVICES = ["cpu:0", *GPUS]
ON_MPS = pytest.param(
    "mps",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no mps device here")],
)


@pytest.fixture
def rows(rng, monkeypatch):
    """More rows than a chunk of the CPU or of an accelerator holds, far from 0, with two targets and weights."""
    monkeypatch.setattr(_domain, "_ACCELERATOR_ELEMENTS", 2**16)
    X = rng.normal(size=(20_000, 3)) * [1.0, 100.0, 0.01] + [0.0, 1e6, 3.0]
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    Y = np.column_stack([np.sin(Z[:, 0]) * Z[:, 1], Z[:, 2] ** 3 - Z[:, 0]]) + 0.1 * rng.normal(size=(20_000, 2))
    return X, Y, rng.integers(0, 3, len(X)).astype(float)


@pytest.fixture
def in_single_precision(monkeypatch):
    """Take double precision from the CPU as torch sees it."""
    for room in (_device, _reading, _candidates):
        monkeypatch.setattr(room, "has_float64", _device.is_cpu)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "parameters", [{}, {"alpha": 1e-3}, {"basis": "chebyshev", "optimizer": "adam"}, {"loss": "huber"}], ids=str
)
def test_devices_give_the_polynomial_of_the_cpu(rows, device, parameters):
    on_cpu = TorchPolynomialRegressor(**parameters).fit(*rows)
    model = clone(on_cpu).set_params(device=device).fit(*rows)
    assert_allclose(model.predict(rows[0]), on_cpu.set_params(device="cpu").predict(rows[0]), rtol=1e-9, atol=1e-9)
    assert_allclose(model.score(*rows), on_cpu.score(*rows), rtol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_columns_that_nearly_coincide(rows, rng, device):
    x = rows[0][:, 0]
    X = np.column_stack([x, x + 1e-7 * rng.normal(size=len(x))])
    on_cpu = TorchPolynomialRegressor().fit(X, rows[1])
    model = TorchPolynomialRegressor(device=device).fit(X, rows[1])
    assert_allclose(model.score(X, rows[1]), on_cpu.score(X, rows[1]), rtol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_few_rows_of_many_terms(rng, device, monkeypatch):
    monkeypatch.setattr(_few_rows, "MAX_HELD", 0)
    X, y = rng.uniform(-1, 1, (50, 8)), rng.normal(size=50)
    on_cpu = TorchPolynomialRegressor().fit(X, y)
    model = TorchPolynomialRegressor(device=device).fit(X, y)
    assert_allclose(model.coef_, on_cpu.coef_, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_and_searches(rows, device):
    X, Y, weights = rows
    on_cpu = TorchPolynomialRegressor().fit(*rows)
    model = TorchPolynomialRegressor(device=device)
    for part in np.array_split(np.arange(len(X)), 3):
        model.partial_fit(X[part], Y[part], weights[part])
    assert_allclose(model.predict(X[:100]), on_cpu.predict(X[:100]), rtol=1e-9, atol=1e-9)

    grid = {"degree": [1, 2, 3], "alpha": [0.0, 0.1]}
    here = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid).fit(X, Y)
    there = PolynomialGridSearchCV(TorchPolynomialRegressor(device=device), grid).fit(X, Y)
    assert_allclose(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"], rtol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("error")
def test_rows_that_torch_cannot_share(rows, device, reverse):
    X, Y, _ = rows
    X = X[::-1] if reverse else X.copy()
    X.flags.writeable = False
    model = TorchPolynomialRegressor(device=device).fit(X, Y)
    assert_allclose(model.predict(X[:9]), TorchPolynomialRegressor().fit(X, Y).predict(X[:9]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parameters", [{}, {"alpha": 1e-3}, {"loss": "huber"}], ids=str)
@pytest.mark.parametrize("device", ["cpu:0", ON_MPS])
def test_single_precision_keeps_five_digits(rows, parameters, device, in_single_precision):
    on_cpu = TorchPolynomialRegressor(**parameters).fit(*rows)
    model = TorchPolynomialRegressor(device=device, **parameters).fit(*rows)
    expected = on_cpu.predict(rows[0])
    assert (np.abs(model.predict(rows[0]) - expected).max(axis=0) < 1e-5 * np.abs(expected).max(axis=0)).all()
    assert_allclose(model.score(*rows), on_cpu.score(*rows), atol=1e-6)
    assert model.rank_ == on_cpu.rank_


def test_columns_that_nearly_coincide_in_single_precision(rows, rng, in_single_precision):
    x = rows[0][:, 0]
    X = np.column_stack([x, x + 1e-4 * rng.normal(size=len(x))])
    y = 1e4 * (X[:, 1] - x) + x**2
    assert TorchPolynomialRegressor(device="cpu:0").fit(X, y).score(X, y) > 0.999999


@pytest.mark.parametrize("parameters", [{}, {"alpha": 1e-6}, {"basis": "chebyshev"}, {"basis": "monomial"}], ids=str)
@pytest.mark.parametrize("columns", ["outlier", "dependent", "many powers"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_single_precision_gives_way_where_it_loses_terms(columns, parameters, rng, in_single_precision):
    X = rng.normal(size=(20_000, 2))
    if columns == "outlier":
        X[0] *= 100
    elif columns == "dependent":
        X = np.column_stack([X, 3 * X[:, 0], np.full(len(X), 7.0)])
    y = 10 * np.sin(X.sum(axis=1)) + 100 + rng.normal(size=len(X))
    model = TorchPolynomialRegressor(degree=6 if columns == "many powers" else 2, **parameters)
    on_cpu = clone(model).fit(X, y)
    model.set_params(device="cpu:0").fit(X, y)
    assert_allclose(model.score(X, y), on_cpu.score(X, y), atol=1e-5)
    assert model.rank_ == on_cpu.rank_


def test_searches_in_single_precision_go_one_by_one(rows, in_single_precision):
    X, Y, _ = rows
    grid = {"degree": [1, 2]}
    there = PolynomialGridSearchCV(TorchPolynomialRegressor(device="cpu:0"), grid, cv=2).fit(X, Y)
    here = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid, cv=2).fit(X, Y)
    assert_allclose(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"], atol=1e-6)


def evaluate_up_to(n_rows, error, monkeypatch):
    """Let features of more rows fail on other devices than NumPy's; return the numbers of rows asked for."""
    sizes, evaluate = [], _basis.Basis.evaluate

    def failing(self, variables, out=None):
        if isinstance(variables, torch.Tensor):
            sizes.append(variables.shape[1])
            if variables.shape[1] > n_rows:
                raise error
        return evaluate(self, variables, out)

    monkeypatch.setattr(_basis.Basis, "evaluate", failing)
    return sizes


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("Tried to allocate"), RuntimeError("MPS backend out of memory")], ids=repr
)
def test_where_memory_ends_the_chunk_is_halved(rows, error, monkeypatch):
    X, Y, _ = rows
    expected = TorchPolynomialRegressor().fit(X, Y).predict(X)
    sizes = evaluate_up_to(1000, error, monkeypatch)
    model = TorchPolynomialRegressor(device="cpu:0").fit(X, Y)
    assert_allclose(model.predict(X), expected, rtol=1e-9, atol=1e-9)
    # 2**16 elements are so many rows of 20 terms and 2 targets in fit, and of the terms alone in predict.
    assert [size for size in sizes if size > 1000] == [2978, 1489, 3276, 1638]


@pytest.mark.parametrize(
    "parameters",
    [
        {"loss": "huber"},
        {"loss": "absolute_error", "alpha": 0.01},
        {"optimizer": "adam", "batch_size": 64, "n_iter": 3, "tol": None},
    ],
    ids=str,
)
def test_where_memory_ends_losses_over_rows_go_on(rows, parameters, monkeypatch):
    X, Y, weights = (values[:3000] for values in rows)
    model = TorchPolynomialRegressor(**parameters)
    expected = clone(model).fit(X, Y, weights).predict(X)
    evaluate_up_to(100, torch.OutOfMemoryError("Tried to allocate"), monkeypatch)
    model.set_params(device="cpu:0").fit(X, Y, weights)
    assert_allclose(model.predict(X), expected, rtol=1e-5, atol=1e-5)


def test_where_memory_ends_few_rows_go_on(rng, monkeypatch):
    monkeypatch.setattr(_few_rows, "MAX_HELD", 0)
    X, y = rng.uniform(-1, 1, (50, 8)), rng.normal(size=50)
    expected = TorchPolynomialRegressor().fit(X, y).coef_
    sizes = evaluate_up_to(10, torch.OutOfMemoryError("Tried to allocate"), monkeypatch)
    assert_allclose(TorchPolynomialRegressor(device="cpu:0").fit(X, y).coef_, expected, atol=1e-9)
    assert max(sizes) > 10


def test_a_device_without_room(rows, monkeypatch):
    evaluate_up_to(0, torch.OutOfMemoryError("Tried to allocate"), monkeypatch)
    model = TorchPolynomialRegressor(device="cpu:0")
    with pytest.raises(MemoryError, match=r"'cpu:0' does not hold.*smaller 'degree', or set device='cpu'"):
        model.fit(*rows)
    with pytest.raises(NotFittedError):
        model.predict(rows[0])


def test_a_device_that_vanishes(rows, monkeypatch):
    model = TorchPolynomialRegressor(device="cpu:0").fit(*rows)
    expected = model.predict(rows[0][:9])
    with monkeypatch.context() as broken:
        evaluate_up_to(0, RuntimeError("CUDA error: device-side\nmore"), broken)
        for call in (lambda: model.set_params(degree=2).fit(*rows), lambda: model.predict(rows[0])):
            with pytest.raises(RuntimeError, match=r"The device 'cpu:0' failed: CUDA error: device-side Fit again, or"):
                call()
    assert_allclose(model.predict(rows[0][:9]), expected, rtol=1e-12)


def test_compensated_sums_do_not_lose_digits_with_more_chunks(rng):
    chunk = rng.uniform(0.5, 1.5, (3, 64)).astype(np.float32)
    chunks = [torch.from_numpy(chunk)] * 20_000
    statistics = GramStatistics.from_chunks(chunks, 2, 64.0 * len(chunks))
    exact = chunk.astype(np.float64) @ chunk.astype(np.float64).T / 64
    assert_allclose(statistics.features, exact[:2, :2], rtol=3e-7)
