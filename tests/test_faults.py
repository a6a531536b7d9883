"""What production does: malformed and extreme input, memory that ends, interrupts. Nothing is left half done."""

import pickle
import warnings
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from torchpoly import OverfittingWarning, PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._polynomial.basis import Basis

# What may come out of any call.
ALLOWED = ValueError, TypeError, NotFittedError, MemoryError


def spoil(rng, values):
    """Return an array with something wrong or extreme."""
    values = values.copy()
    place = rng.integers(values.size)
    kind = rng.integers(18)
    if kind < 6:
        values.flat[place] = [np.nan, np.inf, -np.inf, 1e308, 5e-324, -1e300][kind]
        return values
    return [
        lambda: values * 1e300,
        lambda: values * 1e-310,
        lambda: np.sign(values) * 1.79e308,
        lambda: values[: len(values) // 2],
        lambda: values[:0],
        lambda: values[None],
        lambda: np.where(np.arange(values.size).reshape(values.shape) == place, None, values.astype(object)),
        lambda: values.astype(str),
        lambda: values + 1j,
        lambda: values.astype("datetime64[s]"),
        lambda: sparse.csr_matrix(np.atleast_2d(values)),
        lambda: float(values.flat[place]),
    ][kind - 6]()


def parameters(rng):
    """Return parameters of which some are wrong or extreme."""
    choices = {
        "degree": [0, 1, 2, 3, 8, -1, 2.5, "2", None, 10**9, np.int64(2)],
        "optimizer": ["lbfgs", "adam", "sgd", "nonsense", torch.optim.Adam, dict, None],
        "lr": [None, 0.1, 1e300, 1e-300, 0, -1, np.nan, "a", 10**400],
        "tol": [None, 1e-8, 0.0, -1, np.inf],
        "loss": ["squared_error", "huber", "absolute_error", "quantile", "l2", torch.nn.MSELoss(), lambda a, b: None],
        "alpha": [0.0, 1e-300, 1.0, 1e300, -1, np.nan, "1"],
        "basis": ["orthonormal", "chebyshev", "monomial", "power"],
        "batch_size": [None, 5, 10**6, 0, 2.5],
        "extrapolation": ["continue", "constant", "linear", "none"],
        "random_state": [None, 0, -1, "a"],
        "warm_start": [False, True, 3],
    }
    chosen = rng.choice(list(choices), size=rng.integers(4), replace=False)
    return {"n_iter": 20} | {name: choices[name][rng.integers(len(choices[name]))] for name in chosen}


@pytest.mark.parametrize("seed", range(8))
def test_only_what_is_allowed_comes_out(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        X, y, w = rng.normal(size=(20, 2)), rng.normal(size=20), rng.uniform(size=20)
        arguments = [X, y, w if rng.integers(2) else None]
        for place in range(3):
            if arguments[place] is not None and rng.integers(3) == 0:
                arguments[place] = spoil(rng, arguments[place])
        model = TorchPolynomialRegressor(**parameters(rng))
        method = "partial_fit" if rng.integers(3) == 0 and hasattr(model, "partial_fit") else "fit"
        before = dict(model.__dict__)
        with warnings.catch_warnings():
            # Of NumPy's warnings, only scikit-learn's own check for infinity may give one.
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", LinAlgWarning)
            warnings.simplefilter("ignore", OverfittingWarning)
            warnings.filterwarnings("ignore", message="(overflow|invalid value) encountered in reduce")
            warnings.filterwarnings("ignore", category=np.exceptions.ComplexWarning)
            try:
                getattr(model, method)(*arguments)
            except ALLOWED:
                assert model.__dict__ == before
                continue
            with suppress(*ALLOWED):
                assert not np.isnan(model.predict(X)).any()


@pytest.mark.parametrize("extrapolation", ["continue", "constant", "linear"])
@pytest.mark.parametrize("basis", ["orthonormal", "monomial"])
@pytest.mark.filterwarnings("error")
def test_far_outside_predictions_have_their_sign(extrapolation, basis, rng):
    X = rng.uniform(-1, 1, (200, 2))
    model = TorchPolynomialRegressor(3, basis=basis, extrapolation=extrapolation).fit(X, X[:, 0] ** 3 - X[:, 1])
    for factor in (1e50, 1e120, 1e200, 1e305):
        predictions = model.predict(factor * X)
        assert not np.isnan(predictions).any()
        if extrapolation == "continue":
            decided = np.abs(X[:, 0]) > 0.05  # rounding leaves other terms of the third degree
            assert_array_equal(np.sign(predictions[decided]), np.sign(X[decided, 0]))


@pytest.mark.parametrize("factor", [1e-200, 1e-150, 1e150, 1e200])
def test_a_warm_start_from_other_units_is_a_cold_one(factor, rng):
    X = rng.normal(size=(50, 2))
    y = X[:, 0] * X[:, 1]
    for X_then, y_then in [(X, factor * y), (factor * X, y)]:
        model = TorchPolynomialRegressor(2, warm_start=True).fit(X, y).fit(X_then, y_then)
        assert_allclose(model.predict(X_then) / y_then, 1.0, rtol=1e-9)


def test_batches_whose_means_are_far_apart(rng):
    X, y = rng.normal(size=(30, 1)), rng.normal(size=30)
    model = TorchPolynomialRegressor(1).fit(X, y).partial_fit(X[:1], [1e200])
    assert np.isfinite(model.predict(X)).all()
    with pytest.raises(ValueError, match="further from that of the rows before than floats hold"):
        TorchPolynomialRegressor(1).partial_fit(X[:1], [-1.7e308]).partial_fit(X[:1], [1.7e308])


@pytest.mark.parametrize("degree", [10**9, 10**100])
def test_no_more_factors_than_columns(degree, rng):
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    model = TorchPolynomialRegressor(degree, interaction_only=True).fit(X, y)
    expected = TorchPolynomialRegressor(3, interaction_only=True).fit(X, y)
    assert_array_equal(model.predict(X), expected.predict(X))


def test_long_doubles_beyond_floats(rng):
    X, y = rng.normal(size=(20, 1)), rng.normal(size=20).astype(np.longdouble)
    for method in (TorchPolynomialRegressor().fit, TorchPolynomialRegressor().partial_fit):
        with pytest.raises(ValueError, match="Input y contains infinity"):
            method(X, y * np.longdouble(10) ** 400)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 10**400}, "beyond what floats hold"),
        ({"lr": 5e-324}, "vanish. Use a larger 'lr'"),
        ({"device": "hpu"}, "'device' parameter got 'hpu'"),
        ({"loss": lambda y_pred, y_true: (y_pred - y_true).square().to("meta")}, "a tensor on meta"),
        ({"loss": lambda y_pred, y_true: (y_pred - y_true).square().to_sparse()}, "layout torch.sparse"),
    ],
    ids=["number", "steps", "device", "loss elsewhere", "sparse loss"],
)
def test_what_is_beyond_use_is_told(settings, message, surface):
    model = TorchPolynomialRegressor(**settings)
    with pytest.raises(ValueError, match=message):
        model.fit(*surface)
    with pytest.raises(NotFittedError):
        model.predict(surface[0])


class Unfinished(torch.optim.SGD):
    def __init__(self, parameters, lr=1.0):
        pass


@pytest.mark.parametrize(
    "optimizer",
    [
        Unfinished,
        partial(torch.optim.SGD, differentiable=True, lr=0.1),
        partial(torch.optim.Adam, capturable=True),
    ],
    ids=["unfinished", "differentiable", "capturable"],
)
def test_optimizers_that_fail(optimizer, surface):
    with pytest.raises(ValueError, match="'optimizer' parameter got"):
        TorchPolynomialRegressor(optimizer=optimizer).fit(*surface)


def test_what_a_loss_raises_comes_through(surface):
    def failing(y_pred, y_true):
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        TorchPolynomialRegressor(loss=failing).fit(*surface)


def test_whole_numbers_beyond_floats(surface):
    X = surface[0].astype(object)
    X[3, 1] = 10**400
    with pytest.raises(ValueError, match="beyond what floats hold"):
        TorchPolynomialRegressor().fit(X, surface[1])
    with pytest.raises(ValueError, match="beyond what floats hold"):
        TorchPolynomialRegressor().fit(*surface).predict(X)


def test_tensors_without_values(surface):
    with pytest.raises(ValueError, match="'meta' holds no values"):
        TorchPolynomialRegressor().fit(surface[0], torch.zeros(300, device="meta"))


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("fitted", [False, True])
def test_what_breaks_off_leaves_no_trace(error, call, at, fitted, rng, monkeypatch):
    X, y = rng.uniform(-1, 1, (40_000, 2)), rng.normal(size=40_000)
    model = TorchPolynomialRegressor(6)
    if fitted:
        model.fit(X[:200], y[:200])
    before, count, evaluate = pickle.dumps(model), [0], Basis.evaluate

    def breaking(self, variables, out=None):
        count[0] += 1
        if count[0] == at:
            raise error("now")
        return evaluate(self, variables, out)

    with monkeypatch.context() as patch:
        patch.setattr(Basis, "evaluate", breaking)
        with pytest.raises(error):
            getattr(model, call)(X, y)
    assert pickle.dumps(model) == before
    again = pickle.loads(before)
    assert_array_equal(model.fit(X, y).predict(X[:9]), again.fit(X, y).predict(X[:9]))


def test_a_search_goes_on_where_memory_ends(surface, monkeypatch):
    X, Y = surface
    count, evaluate = [0], Basis.evaluate

    def breaking(self, variables, out=None):
        count[0] += 1
        if count[0] <= 2:
            raise MemoryError("now")
        return evaluate(self, variables, out)

    expected = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=3).fit(X, Y)
    monkeypatch.setattr(Basis, "evaluate", breaking)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, Y)
    assert search.best_params_ == expected.best_params_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_a_search_that_fails_is_as_before(surface):
    X, Y = surface
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(lr=5e-324), {"degree": [1]}, error_score=0.0)
    before = dict(search.__dict__)
    with pytest.raises(ValueError, match="vanish"):
        search.fit(X, Y)
    assert search.__dict__ == before


@pytest.mark.parametrize("settings", [{}, {"alpha": 1e300}, {"basis": "monomial"}, {"loss": "huber"}], ids=str)
def test_floating_point_errors_as_exceptions(settings, rng):
    x = rng.normal(size=(50, 1))
    for unit in (1.0, 1e-200, 1e150 if settings.get("basis") != "monomial" else 1.0):
        with np.errstate(all="raise"):
            model = TorchPolynomialRegressor(1, **settings).fit(unit * x, x[:, 0])
            assert np.isfinite(model.predict(unit * x)).all()
            assert model.equation()
