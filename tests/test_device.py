"""Other devices than NumPy's CPU: here the CPU as torch sees it, and where there is one, a GPU.

``device="cpu:0"`` takes the way of a GPU, with tensors.
"""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._backend import device as device_module
from torchpoly._backend import rows as rows_module
from torchpoly._gram import factors
from torchpoly._polynomial.basis import Basis

GPUS = [
    pytest.param(name, marks=[pytest.mark.gpu, pytest.mark.skipif(not present, reason=f"no {name} device here")])
    for name, present in [("cuda", torch.cuda.is_available()), ("xpu", torch.xpu.is_available())]
]
DEVICES = ["cpu:0", *GPUS]


@pytest.fixture
def rows(rng, monkeypatch):
    """More rows than a chunk of the CPU or of an accelerator holds, far from 0, with two targets and weights."""
    monkeypatch.setattr(rows_module, "_ACCELERATOR_ELEMENTS", 2**16)
    X = rng.normal(size=(20_000, 3)) * [1.0, 100.0, 0.01] + [0.0, 1e6, 3.0]
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    Y = np.column_stack([np.sin(Z[:, 0]) * Z[:, 1], Z[:, 2] ** 3 - Z[:, 0]]) + 0.1 * rng.normal(size=(20_000, 2))
    return X, Y, rng.integers(0, 3, len(X)).astype(float)


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
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", 0)
    X, y = rng.uniform(-1, 1, (50, 8)), rng.normal(size=50)
    on_cpu = TorchPolynomialRegressor().fit(X, y)
    model = TorchPolynomialRegressor(device=device).fit(X, y)
    assert_allclose(model.term_coef_, on_cpu.term_coef_, atol=1e-9)


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


@pytest.mark.parametrize("parameters", [{}, {"loss": "huber"}], ids=str)
def test_a_device_without_double_precision_gives_way_to_the_cpu(rows, parameters, monkeypatch):
    monkeypatch.setattr(device_module, "has_float64", lambda device: device is None)
    X, Y, _ = rows
    on_cpu = TorchPolynomialRegressor(**parameters).fit(X, Y)
    with pytest.warns(
        UserWarning, match=r"'cpu:0' has no double precision.* runs on the CPU\. Set device='cpu'"
    ) as caught:
        model = TorchPolynomialRegressor(device="cpu:0", **parameters).fit(X, Y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(model.predict(X), on_cpu.predict(X))
    np.testing.assert_array_equal(model.term_coef_, on_cpu.term_coef_)


def test_a_search_on_a_device_without_double_precision(rows, monkeypatch):
    monkeypatch.setattr(device_module, "has_float64", lambda device: device is None)
    X, Y, _ = rows
    here = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=2).fit(X, Y)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(device="cpu:0"), {"degree": [1, 2]}, cv=2)
    with pytest.warns(UserWarning, match="'cpu:0' has no double precision") as caught:
        there = search.fit(X, Y)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="'cpu:0' has no double precision") as caught:
        TorchPolynomialRegressor(device="cpu:0").partial_fit(X, Y)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])


def evaluate_up_to(n_rows, error, monkeypatch):
    """Let features of more rows fail on other devices than NumPy's; return the numbers of rows asked for."""
    sizes, evaluate = [], Basis.evaluate

    def failing(self, variables, out=None):
        if isinstance(variables, torch.Tensor):
            sizes.append(variables.shape[1])
            if variables.shape[1] > n_rows:
                raise error
        return evaluate(self, variables, out)

    monkeypatch.setattr(Basis, "evaluate", failing)
    return sizes


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("Tried to allocate"), RuntimeError("CUDA error: out of memory")], ids=repr
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
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", 0)
    X, y = rng.uniform(-1, 1, (50, 8)), rng.normal(size=50)
    expected = TorchPolynomialRegressor().fit(X, y).term_coef_
    sizes = evaluate_up_to(10, torch.OutOfMemoryError("Tried to allocate"), monkeypatch)
    assert_allclose(TorchPolynomialRegressor(device="cpu:0").fit(X, y).term_coef_, expected, atol=1e-9)
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
