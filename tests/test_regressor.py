"""What a fitted estimator offers, on data of every kind."""

import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
from inspect import cleandoc

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sympy
import torch
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils import get_tags

from torchpoly import TorchPolynomialRegressor


@pytest.mark.parametrize("interaction_only", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", ["vector", "column", "matrix"])
def test_coefficients_are_those_of_linear_regression(interaction_only, weighted, shape, rng):
    X = rng.normal(size=(300, 3))
    Y = np.column_stack([X[:, 0] * X[:, 1] - 2 + X[:, 2] ** 3, X[:, 0]]) + 0.1 * rng.normal(size=(300, 2))
    y = {"vector": Y[:, 0], "column": Y[:, :1], "matrix": Y}[shape]
    weights = rng.integers(0, 4, 300) if weighted else None
    features = PolynomialFeatures(3, interaction_only=interaction_only, include_bias=False)
    linear = LinearRegression().fit(features.fit_transform(X), y, weights)
    model = TorchPolynomialRegressor(3, interaction_only=interaction_only).fit(X, y, weights)

    np.testing.assert_array_equal(model.powers_, features.powers_)
    assert model.term_coef_.shape == linear.coef_.shape
    assert np.shape(model.intercept_) == np.shape(linear.intercept_)
    assert isinstance(model.intercept_, float) == isinstance(linear.intercept_, float)
    np.testing.assert_allclose(model.term_coef_, linear.coef_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(model.intercept_, linear.intercept_, rtol=1e-10, atol=1e-12)
    assert model.predict(X).shape == y.shape
    np.testing.assert_allclose(model.predict(X), linear.predict(features.transform(X)), atol=1e-11)
    assert model.score(X, y, weights) == pytest.approx(linear.score(features.transform(X), y, weights), abs=1e-12)
    assert model.rank_ == linear.rank_ + 1


@pytest.mark.parametrize("basis", ["orthonormal", "chebyshev"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("n_rows", [12, 400, 40_000])
def test_weights_are_copies(n_rows, alpha, basis, rng):
    """Below the number of terms, in one chunk, and in several."""
    X = rng.uniform(-1, 1, (n_rows, 2))
    y = np.sin(3 * X).sum(axis=1) + rng.normal(size=n_rows)
    X[-1] = 1e200  # has weight 0: the domain must not see it
    weights = rng.integers(0, 3, n_rows)
    weights[-1] = 0
    settings = {"degree": 5, "alpha": alpha, "basis": basis, "tol": 1e-9}
    weighted = TorchPolynomialRegressor(**settings).fit(X, y, weights)
    copied = TorchPolynomialRegressor(**settings).fit(X.repeat(weights, axis=0), y.repeat(weights))

    np.testing.assert_allclose(weighted.predict(X[:-1]), copied.predict(X[:-1]), atol=1e-7)
    scaled = TorchPolynomialRegressor(**settings).fit(X, y, weights * 1e-3)
    np.testing.assert_allclose(scaled.predict(X[:-1]), weighted.predict(X[:-1]), atol=1e-7)


@pytest.mark.parametrize("n_rows", [16_384, 16_385, 50_000])
def test_chunks_do_not_show(n_rows, rng):
    X = rng.uniform(-1, 1, (n_rows, 2))
    y = np.cos(4 * X[:, 0] - X[:, 1])
    features = PolynomialFeatures(6)
    expected = LinearRegression(fit_intercept=False).fit(features.fit_transform(X), y)
    model = TorchPolynomialRegressor(6).fit(X, y)

    np.testing.assert_allclose(model.predict(X), expected.predict(features.transform(X)), atol=1e-10)


def test_float32_in_float32_out(rng):
    X = rng.uniform(-1, 1, (100, 2)).astype(np.float32)
    y = X.prod(axis=1)
    model = TorchPolynomialRegressor(2).fit(X, y)
    assert model.predict(X).dtype == np.float32
    np.testing.assert_allclose(model.predict(X), y, atol=1e-6)
    assert model.predict(X.astype(np.float64)).dtype == np.float64
    assert model.term_coef_.dtype == np.float64


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_data_frames(frame, rng):
    columns = {"length (cm)": rng.uniform(1, 2, 50), "width": rng.uniform(1, 2, 50)}
    X = frame(columns)
    model = TorchPolynomialRegressor(2).fit(X, columns["length (cm)"] * columns["width"] - 1)
    assert list(model.feature_names_in_) == list(columns)
    assert model.equation(6) == "y = -1 + 1*length_cm*width"
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[["width", "length (cm)"]])


def test_names_that_python_does_not_allow(rng):
    X = pd.DataFrame(rng.uniform(1, 2, (50, 6)), columns=["lambda", "2nd", "a b", "a-b", "y", "\uff41"])
    model = TorchPolynomialRegressor(1).fit(X, X.sum(axis=1))
    right = model.equation(3).split(" = ")[1]
    assert right == "1*lambda_ + 1*_2nd + 1*a_b + 1*a_b_ + 1*y_ + 1*a"
    names = dict(zip(["lambda_", "_2nd", "a_b", "a_b_", "y_", "a"], X.to_numpy().T, strict=True))
    np.testing.assert_allclose(eval(right, {}, names), model.predict(X))


def test_equations_of_high_degree_and_far_from_0_keep_their_terms():
    for x, degree in [(np.linspace(5, 6, 200), 12), (np.linspace(0, 1, 200), 15), (np.linspace(1, 1.001, 200), 4)]:
        model = TorchPolynomialRegressor(degree).fit(x[:, None], np.sin(x))
        right = model.equation(17).split(" = ")[1]
        np.testing.assert_allclose(eval(right, {}, {"x0": x}), np.sin(x), atol=1e-4)


@pytest.mark.parametrize("precision", [0, -1, 2.5, "3", True])
def test_equation_refuses_a_precision_that_is_none(precision):
    model = TorchPolynomialRegressor(1).fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"'precision' parameter got .* from 1 to 767"):
        model.equation(precision)


def test_changing_what_coef_returned_changes_nothing():
    model = TorchPolynomialRegressor(1).fit([[0.0], [1.0]], [0.0, 1.0])
    model.term_coef_[:] = 0.0
    np.testing.assert_allclose(model.term_coef_, [1.0])


def test_equation_is_python_and_sympy(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(3).fit(X, Y)
    lines = model.equation(precision=15).splitlines()
    assert [line.split(" = ")[0] for line in lines] == ["y0", "y1"]
    names = {f"x{column}": X[:, column] for column in range(3)}
    for target, line in enumerate(lines):
        right = line.split(" = ")[1]
        np.testing.assert_allclose(eval(right, {}, names), model.predict(X)[:, target], rtol=1e-6, atol=1e-6)
        symbolic = sympy.lambdify(sympy.symbols("x0:3"), sympy.sympify(right))
        np.testing.assert_allclose(symbolic(*X.T), model.predict(X)[:, target], rtol=1e-6, atol=1e-6)


def test_equation_leaves_out_what_moves_nothing():
    x = np.linspace(-np.pi, np.pi, 2000)[:, None]
    assert TorchPolynomialRegressor().fit(x, np.sin(x[:, 0])).equation(3) == "y = 0.857*x0 - 0.0933*x0**3"
    assert TorchPolynomialRegressor().fit(x, -np.sin(x[:, 0])).equation(3) == "y = -0.857*x0 + 0.0933*x0**3"
    assert TorchPolynomialRegressor().fit(x, np.zeros(2000)).equation() == "y = 0"
    assert TorchPolynomialRegressor().fit(x, np.full(2000, 2.5)).equation() == "y = 2.5"
    assert TorchPolynomialRegressor().fit(x, np.full(2000, 1e-9)).equation() == "y = 1e-09"
    adam = TorchPolynomialRegressor(optimizer="adam").fit(x, np.sin(x[:, 0]))
    assert adam.equation(4) == "y = 0.8567*x0 - 0.09333*x0**3"
    assert TorchPolynomialRegressor().fit(x, 1e6 + 1e-3 * x[:, 0]).equation(6) == "y = 1e+06 + 0.001*x0"


def test_module_is_the_polynomial_and_its_derivative(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(3).fit(X, Y)
    rows = torch.tensor(X, requires_grad=True)
    predictions = model.module_(rows)
    np.testing.assert_allclose(predictions.detach().numpy(), model.predict(X), atol=1e-10)

    predictions[:, 0].sum().backward()
    symbols = sympy.symbols("x0:3")
    polynomial = sympy.sympify(model.equation(17).splitlines()[0].split(" = ")[1])
    for column, symbol in enumerate(symbols):
        derivative = sympy.lambdify(symbols, sympy.diff(polynomial, symbol))
        np.testing.assert_allclose(rows.grad.numpy()[:, column], derivative(*X.T), rtol=1e-6, atol=1e-6)

    for degree, columns in [(3, X), (2, np.ones_like(X)), (0, X)]:
        single = TorchPolynomialRegressor(degree).fit(columns, Y[:, 0])
        rows = torch.tensor(columns[:5], dtype=torch.float32)
        predictions = single.module_.to(torch.float32)(rows)
        assert (predictions.shape, predictions.dtype) == ((5,), torch.float32)
        np.testing.assert_allclose(predictions.numpy(), single.predict(rows.numpy()), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_pickles_predict_the_same_bits_in_a_fresh_process(tmp_path, surface):
    X, Y = surface
    model = TorchPolynomialRegressor(3, optimizer="adam").fit(X, Y[:, 0])
    assert len(pickle.dumps(model)) < 10_000
    joblib.dump(model, tmp_path / "model.joblib")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "X.npy", X)
    program = cleandoc("""
        import pickle, sys, joblib, numpy as np
        X = np.load("X.npy")
        np.save("joblib.npy", joblib.load("model.joblib").predict(X))
        np.save("pickle.npy", pickle.load(open("model.pickle", "rb")).predict(X))
    """)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "joblib.npy"), model.predict(X))
    np.testing.assert_array_equal(np.load(tmp_path / "pickle.npy"), model.predict(X))


def test_fitted_state_holds_no_tensors(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(3, device=torch.device("cpu")).fit(X, Y)
    state = pickle.dumps({name: value for name, value in vars(model).items() if name not in model.get_params()})
    assert b"torch." not in state.replace(b"torchpoly.", b"")


def test_tags_and_clone():
    model = TorchPolynomialRegressor(degree=2, optimizer=torch.optim.Adam)
    tags = get_tags(model)
    assert tags.estimator_type == "regressor"
    assert tags.target_tags.multi_output
    assert not tags.input_tags.allow_nan
    assert not tags.input_tags.sparse
    assert clone(model).get_params() == model.get_params()


@pytest.mark.slow
def test_importing_is_light():
    program = cleandoc("""
        import sys, torch, sklearn.callback
        before = set(sys.modules)
        import torchpoly
        print(sorted({name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))
        print("torch._dynamo" in sys.modules)
    """)
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.split("\n")[0] == "['sklearn', 'torchpoly']"
    assert output.split("\n")[1] == "False"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is POSIX")
def test_memory_stays_flat():
    """A million rows of 10 columns at degree 3 would be 2.3 GB of features."""
    program = cleandoc("""
        import resource, sys
        import numpy as np
        from torchpoly import TorchPolynomialRegressor
        X = np.random.default_rng(0).uniform(-1, 1, (1_000_000, 10))
        y = X[:, 0] ** 3 - X[:, 1] * X[:, 2]
        TorchPolynomialRegressor().fit(X[:1000], y[:1000])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model = TorchPolynomialRegressor().fit(X, y)
        assert model.predict(X).shape == y.shape
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
    """)
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(output) < 500e6


def test_few_rows_of_positive_weight_among_many_take_little_memory(rng):
    X = rng.uniform(-1, 1, (200_000, 10))
    weights = np.zeros(len(X))
    weights[:20] = 1.0
    TorchPolynomialRegressor(3).fit(X[:20], X[:20, 0])  # the first use of torch.optim imports much
    tracemalloc.start()
    model = TorchPolynomialRegressor(3).fit(X, X[:, 0], weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    np.testing.assert_allclose(model.predict(X[:20]), X[:20, 0], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64, torch.float32])
def test_memory_maps_and_tensors_are_not_copied(dtype, rng, tmp_path):
    """At degree 2, features of 200000 rows of 20 columns would take 370 MB, a copy of X 16 or 32 MB."""
    X = rng.uniform(-1, 1, (200_000, 20)).astype(np.float64 if dtype == np.float64 else np.float32)
    y = X[:, 0] * X[:, 1] + 0.1 * rng.normal(size=len(X))
    np.save(tmp_path / "X.npy", X)
    X = np.load(tmp_path / "X.npy", mmap_mode="r") if dtype != torch.float32 else torch.from_numpy(X)
    model = TorchPolynomialRegressor(2).fit(X[:500], y[:500])
    for use in [
        lambda: model.fit(X, y, sample_weight=np.ones(len(y))),
        lambda: model.predict(X),
        lambda: model.partial_fit(X, y),
    ]:
        tracemalloc.start()
        use()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 15e6 + 8 * 3 * len(y)  # a chunk of features, and three numbers a row


def test_equation_warns_where_rounding_moves_y_by_more_than_its_spread(rng):
    year = rng.uniform(1970, 1983, 300)
    model = TorchPolynomialRegressor(2).fit(year[:, None], (year - 1975) ** 2)
    with pytest.warns(UserWarning, match=r"Rounded to 3 significant digits.*Take precision=\d+") as caught:
        coarse = model.equation(3)
    assert np.abs(eval(coarse[4:], {}, {"x0": year}) - model.predict(year[:, None])).max() > 20
    enough = int(re.search(r"precision=(\d+)", str(caught[0].message))[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine = model.equation(enough)
    assert np.abs(eval(fine[4:], {}, {"x0": year}) - model.predict(year[:, None])).max() < 0.2
    with pytest.warns(UserWarning, match="Use predict or module_"):
        TorchPolynomialRegressor(9).fit(year[:, None], np.sin(year)).equation(6)


def error_of_equation(model, X, precision=None):
    """The greatest difference of the equation from predict at the rows of X."""
    columns = {f"x{column}": values for column, values in enumerate(X.T.astype(np.longdouble))}
    return np.abs(eval(model.equation(precision)[4:], {}, columns) - model.predict(X)).max()


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("degree", [1, 3, 7])
@pytest.mark.parametrize("column", [(-1, 1), (0, 1), (5, 6), (1970, 1990), (1e-4, 2e-4), (300, 900)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"loss": "absolute_error"}, {"alpha": 1e-3}], ids=str)
def test_equation_has_as_many_digits_as_the_fit_needs(settings, column, degree, noise, rng):
    x = rng.uniform(*column, (80, 1))
    u = (x[:, 0] - x.mean()) / np.ptp(x)
    y = 1e3 * (2 + np.sin(4 * u) + noise * rng.normal(size=80))
    model = TorchPolynomialRegressor(degree, **settings).fit(x, y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error = error_of_equation(model, x)
    residual = max(np.sqrt(np.mean((y - model.predict(x)) ** 2)), 1e-7 * y.std())
    # The estimate adds the squares of the errors of the terms, so it may be exceeded a little.
    if not caught:
        assert error < 2 * min(1e-3 * y.std(), 0.1 * residual)
    else:
        assert column[0] / np.ptp(column) > 4  # monomials cancel


def test_equation_of_a_thermistor_is_as_close_as_the_fit():
    celsius = np.linspace(0, 100, 60)
    ohm = 1e4 * np.exp(3950 * (1 / (celsius + 273.15) - 1 / 298.15))[:, None]
    model = TorchPolynomialRegressor(11).fit(ohm, celsius)
    assert error_of_equation(model, ohm) < 0.1 * np.abs(model.predict(ohm) - celsius).max()
    with pytest.warns(UserWarning, match=r"Rounded to 6 significant digits.*Take precision=\d+ or None"):
        assert error_of_equation(model, ohm, 6) > 10  # kelvin


def test_equation_counts_the_terms_that_it_leaves_out(rng):
    X, y = rng.normal(size=(30, 10)), rng.normal(size=30)
    model = TorchPolynomialRegressor(3).fit(X, y)
    with pytest.warns(UserWarning, match="Rounded to 1 significant"):
        assert error_of_equation(model, X, 1) > 0.1 * y.std()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert error_of_equation(model, X) < 1e-6


@pytest.mark.parametrize(
    ("y", "precision"),
    [(np.full(200, 12345678.0), 6), (np.linspace(0, 1, 200) ** 2, 2), (np.full((200, 2), [1.0, 1e9]), 3)],
    ids=["constant", "well scaled", "several constants"],
)
def test_equation_does_not_warn_where_nothing_cancels(y, precision):
    model = TorchPolynomialRegressor(2).fit(np.linspace(0, 1, 200)[:, None], y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.equation(precision)


def test_equation_warns_however_many_digits_it_has_where_floats_are_not_enough():
    x = np.linspace(-1, 1, 500)
    model = TorchPolynomialRegressor(100).fit(x[:, None], np.sin(60 * x))
    with pytest.warns(UserWarning, match="Use predict or module_"):
        model.equation(17)


@pytest.mark.parametrize("use", ["predict", "module_"])
def test_extrapolation_that_is_none_is_refused_after_fit_too(use, surface):
    X, Y = surface
    model = TorchPolynomialRegressor(1).fit(X, Y).set_params(extrapolation="eror")
    with pytest.raises(ValueError, match=r"'extrapolation' parameter of TorchPolynomialRegressor must be .*'error'"):
        model.predict(X) if use == "predict" else model.module_


def test_who_asks_outside_is_told_column_row_and_range():
    X = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [5.0, 7.0, 6.0]})
    model = TorchPolynomialRegressor(1, extrapolation="error").fit(X, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"columns \['b'\], first in row 1: 9 where training had 5 to 7"):
        model.predict(pd.DataFrame({"a": [1.0, 1.0], "b": [6.0, 9.0]}))


def test_an_optimizer_that_has_parameters_already_is_refused_with_advice():
    optimizer = torch.optim.Adam([torch.zeros(1)])
    with pytest.raises(ValueError, match=r"got an instance of Adam.*'adam'.*partial"):
        TorchPolynomialRegressor(optimizer=optimizer).fit([[0.0], [1.0]], [0.0, 1.0])


def test_a_second_fit_leaves_nothing_of_the_first_and_keeps_what_users_set(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(2, loss="huber").fit(X, Y)
    model.note_ = "mine"
    assert hasattr(model, "scale_")
    model.set_params(loss="quantile").fit(X, Y)
    assert hasattr(model, "dual_gap_")
    assert not hasattr(model, "scale_")
    model.set_params(loss="squared_error").fit(X, Y)
    assert not hasattr(model, "dual_gap_")
    assert model.note_ == "mine"
