"""Arrays and frames of every kind: the fit of the same numbers in double precision, and no warning of its own."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LinearRegression

from torchpoly import OverfittingWarning, TorchPolynomialRegressor

N_ROWS = 120
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.fixture
def whole(rng):
    """Small whole numbers, which every type holds, in three columns."""
    return rng.integers(0, 100, (N_ROWS, 3)).astype(float)


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def misaligned(X):
    raw = np.empty(X.nbytes + 1, dtype=np.uint8)
    shifted = raw[1:].view(np.float64).reshape(X.shape)
    shifted[:] = X
    return shifted


KINDS = {
    "read-only": read_only,
    "Fortran order": np.asfortranarray,
    "rows backwards": lambda X: X[::-1].copy()[::-1],
    "columns backwards": lambda X: X[:, ::-1].copy()[:, ::-1],
    "every second row of more": lambda X: np.repeat(X, 2, axis=0)[::2],
    "broadcast weights aside": lambda X: np.broadcast_to(X[None], (1, *X.shape))[0],
    "not aligned": misaligned,
    "big endian": lambda X: X.astype(">f8"),
    "long double": lambda X: X.astype(np.longdouble),
    "float16": lambda X: X.astype(np.float16),
    **{kind: lambda X, kind=kind: X.astype(kind) for kind in INTEGERS},
    "object": lambda X: X.astype(object),
    "lists": lambda X: X.tolist(),
    "tuples of whole numbers": lambda X: tuple(map(tuple, X.astype(int).tolist())),
    "pandas": lambda X: pd.DataFrame(X, columns=list("abc")),
    "pandas, mixed": lambda X: pd.DataFrame(X, columns=list("abc")).astype({"a": "int8", "b": "float32"}),
    "pandas Int64": lambda X: pd.DataFrame(X, columns=list("abc")).astype("Int64"),
    "pandas Float64": lambda X: pd.DataFrame(X, columns=list("abc")).astype("Float64"),
    "pandas arrow": lambda X: pd.DataFrame(X, columns=list("abc")).astype("double[pyarrow]"),
    "pandas categorical": lambda X: pd.DataFrame(X, columns=list("abc")).astype("category"),
    "pandas object": lambda X: pd.DataFrame(X, columns=list("abc")).astype(object),
    "polars": lambda X: pl.DataFrame(X, schema=list("abc")),
    "polars of whole numbers": lambda X: pl.DataFrame(X.astype(np.int16), schema=list("abc")),
}


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_kinds_of_X(kind, loss, whole, rng):  # noqa: N802
    y = np.sin(whole[:, 0] / 30) + rng.normal(size=N_ROWS)
    expected = TorchPolynomialRegressor(2, loss=loss).fit(whole, y)
    X = KINDS[kind](whole)
    model = TorchPolynomialRegressor(2, loss=loss).fit(X, y)
    assert_allclose(model.predict(X), expected.predict(whole), rtol=1e-9, atol=1e-9)
    assert_allclose(model.term_coef_, expected.term_coef_, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_kinds_of_y_and_weights(kind, whole, rng):
    X, weights = rng.normal(size=(N_ROWS, 2)), whole[:, 0] + 1
    expected = TorchPolynomialRegressor(2).fit(X, whole, weights)
    Y, w = KINDS[kind](whole), KINDS[kind](weights[:, None].repeat(3, axis=1))
    if isinstance(w, pd.DataFrame | pl.DataFrame):
        w = w["a"]
    elif isinstance(w, np.ndarray):
        w = w[:, 0]
    else:
        w = [row[0] for row in w]
    model = TorchPolynomialRegressor(2).fit(X, Y, w)
    assert_allclose(model.predict(X), expected.predict(X), rtol=1e-6 if kind == "float16" else 1e-9)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_greatest_integers_do_not_overflow(dtype, rng):
    limits = np.iinfo(dtype)
    X = rng.integers(limits.min, limits.max, (N_ROWS, 2), dtype=dtype, endpoint=True)
    X[0], X[1] = limits.min, limits.max
    y = X[::-1, 0].copy()
    expected = TorchPolynomialRegressor(3).fit(X.astype(float), y.astype(float))
    model = TorchPolynomialRegressor(3).fit(X, y)
    assert_allclose(model.predict(X), expected.predict(X.astype(float)), rtol=1e-12)
    batches = TorchPolynomialRegressor(3).partial_fit(X[:60], y[:60]).partial_fit(X[60:], y[60:])
    assert_allclose(batches.predict(X), model.predict(X), rtol=1e-6, atol=1e-9 * float(limits.max))


@pytest.mark.filterwarnings("ignore::torchpoly.OverfittingWarning")
@pytest.mark.filterwarnings("error")
def test_booleans(rng):
    X, y = rng.integers(0, 2, (N_ROWS, 3)).astype(bool), rng.integers(0, 2, N_ROWS).astype(bool)
    model = TorchPolynomialRegressor(3, interaction_only=True).fit(X, y)
    # All products of binary columns are the means of their cells.
    cells = X @ [1, 2, 4]
    means = np.array([y[cells == cell].mean() for cell in range(8)])
    assert_allclose(model.predict(X), means[cells], atol=1e-12)


def test_columns_in_another_order_or_missing(whole):
    frame = pd.DataFrame(whole, columns=list("abc"))
    for make in (lambda frame: frame, pl.from_pandas):
        model = TorchPolynomialRegressor(2).fit(make(frame), whole[:, 0])
        for columns, message in [("cab", "must be in the same order"), ("ab", "missing"), ("abcd", "unseen")]:
            with pytest.raises(ValueError, match=message):
                model.predict(make(frame.assign(d=1.0)[list(columns)]))


@pytest.mark.filterwarnings("ignore::torchpoly.OverfittingWarning")
@pytest.mark.filterwarnings("error")
def test_shapes_at_the_edges(rng):
    x = rng.normal(size=50)
    constant = np.column_stack([x, np.full(50, 7.0), np.zeros(50)])
    twice = np.column_stack([x, x, x])
    expected = TorchPolynomialRegressor(3).fit(x[:, None], np.sin(x)).predict(x[:, None])
    for X in (constant, twice, twice.astype(np.float32).astype(float)):
        assert_allclose(TorchPolynomialRegressor(3).fit(X, np.sin(x)).predict(X), expected, atol=1e-7)
    repeated = np.repeat(x, 3)[:, None]
    model = TorchPolynomialRegressor(3).fit(repeated, np.sin(repeated[:, 0]))
    assert_allclose(model.predict(x[:, None]), expected, rtol=1e-9)
    wide, y = rng.normal(size=(5, 30)), rng.normal(size=5)
    assert_allclose(TorchPolynomialRegressor(2).fit(wide, y).predict(wide), y, atol=1e-9)
    assert_allclose(TorchPolynomialRegressor(2).fit([[1.0, 2.0]], [3.0]).predict([[5.0, 6.0]]), [3.0])


@pytest.mark.parametrize("X", [np.ones((5, 2)), np.full((5, 2), 1e-320), 1e300 * np.eye(5)], ids=["1", "2", "3"])
@pytest.mark.parametrize("unit", [1e-320, 1.0, 1e16, 1e100])
def test_warnings_are_those_of_scikit_learn(X, unit):
    caught = []
    for estimator in (TorchPolynomialRegressor(2), LinearRegression()):
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", OverfittingWarning)
            assert np.isfinite(estimator.fit(X, unit * np.arange(5.0)).predict(X)).all()
        caught.append([str(warning.message) for warning in given])
    assert len(caught[0]) <= len(caught[1]), caught[0]
