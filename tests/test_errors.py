"""Bad input: what the message says, and that the estimator is left as it was."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from torchpoly import TorchPolynomialRegressor

X = np.random.default_rng(0).uniform(-1, 1, (30, 2))
Y = X[:, 0] ** 2 - X[:, 1]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("degree", -1, r"int in the range \[0"),
        ("degree", 2.5, "int"),
        ("degree", "3", "int"),
        ("optimizer", 3, "str"),
        ("lr", 0, r"range \(0"),
        ("lr", -0.1, r"range \(0"),
        ("lr", np.inf, r"range \(0"),
        ("lr", np.nan, r"range \(0"),
        ("n_iter", 0, r"range \[1"),
        ("n_iter", 10.0, "int"),
        ("tol", -1e-3, r"range \[0"),
        ("tol", np.nan, r"range \[0"),
        ("alpha", -1, r"range \[0"),
        ("alpha", np.inf, r"range \[0"),
        ("basis", "legendre", "'chebyshev'"),
        ("interaction_only", 2, "bool"),
        ("device", 0, "str"),
        ("verbose", -1, r"\[0"),
        ("verbose", "yes", "bool"),
    ],
)
def test_parameters_out_of_range(name, value, allowed):
    model = TorchPolynomialRegressor(**{name: value})
    with pytest.raises(ValueError, match=f"'{name}' parameter.*{allowed}.*Got {value!r} instead".replace("$", "")):
        model.fit(X, Y)
    assert_unfitted(model)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adm", "'adm'.*Did you mean 'adam'.*Allowed are adadelta"),
        ("L-BFGS", "Did you mean 'lbfgs'"),
        ("sparseadam", "of dense tensors.*Did you mean"),
        (torch.optim.SparseAdam, "sparse gradients only; 'adam'"),
        (torch.nn.Linear, "subclass of torch.optim.Optimizer"),
        (torch.optim.Optimizer, "subclass of torch.optim.Optimizer"),
        (partial(torch.optim.SGD, [torch.zeros(1)]), "keyword arguments"),
        (partial(torch.optim.SGD, momentun=0.9), "SGD, which refuses its options.*momentun"),
        (partial(torch.optim.Adam, betas=(0.9,)), "Adam, which refuses its options.*betas"),
        (partial(torch.optim.SGD, momentum=-1), "SGD, which refuses its options.*momentum"),
    ],
)
def test_optimizers_that_are_none(optimizer, message):
    model = TorchPolynomialRegressor(optimizer=optimizer)
    with pytest.raises(ValueError, match=f"'optimizer' parameter got.*{message}"):
        model.fit(X, Y)
    assert_unfitted(model)


def test_an_optimizer_without_a_default_rate_wants_one():
    class Bare(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

    with pytest.raises(ValueError, match="'lr' parameter got None, but Bare has no default"):
        TorchPolynomialRegressor(optimizer=Bare).fit(X, Y)


@pytest.mark.parametrize("device", ["cuda:99", "meta", "gpu", "xpu", torch.device("meta")])
def test_devices_that_are_absent(device):
    model = TorchPolynomialRegressor(device=device)
    with pytest.raises(ValueError, match=f"'device' parameter got '{device}'.*Allowed are 'cpu'"):
        model.fit(X, Y)
    assert_unfitted(model)


def replaced(array, value):
    array = array.copy().astype(object if isinstance(value, (str, complex)) else float)
    array.flat[3] = value
    return array


@pytest.mark.parametrize(
    ("X_bad", "y_bad", "weights", "message"),
    [
        (replaced(X, np.nan), Y, None, "Input X contains NaN"),
        (replaced(X, np.inf), Y, None, "Input X contains infinity"),
        (X, replaced(Y, np.nan), None, "Input y contains NaN"),
        (X, replaced(Y, -np.inf), None, "Input y contains infinity"),
        (X, Y, replaced(Y, np.nan), "sample_weight contains NaN"),
        (X, Y, replaced(Y**2, np.inf), "sample_weight contains infinity"),
        (X, Y, -np.ones(30), "Negative values in data passed to `sample_weight`"),
        (X, Y, np.zeros(30), "'sample_weight'.*all zero|[Ss]ample weights.*zero"),
        (X, Y, np.ones(29), r"sample_weight.shape == \(29,\)"),
        (replaced(X, "text"), Y, None, "could not convert string to float"),
        (replaced(X, 1 + 1j), Y, None, "Complex data not supported|complex"),
        (X.astype(complex), Y, None, "Complex data not supported"),
        (X, Y.astype(complex), None, "Complex data not supported"),
        (X, np.array(["text"] * 30), None, "could not convert string to float|dtype"),
        (X, Y[:29], None, "inconsistent numbers of samples"),
        (X[:0], Y[:0], None, "Found array with 0 sample"),
        (X[:, :0], Y, None, "0 feature"),
        (X[:, 0], Y, None, "Expected 2D array, got 1D array"),
        (X, None, None, "requires y to be passed"),
    ],
)
def test_bad_data_leaves_the_estimator_as_it_was(X_bad, y_bad, weights, message):
    model = TorchPolynomialRegressor(2)
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(X_bad, y_bad, weights)
    assert_unfitted(model)

    frame = np.column_stack([X, X[:, 0]])
    model.fit(frame, Y)
    before = {name: np.copy(value) if isinstance(value, np.ndarray) else value for name, value in vars(model).items()}
    expected = model.predict(frame)
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(X_bad, y_bad, weights)
    assert vars(model).keys() == before.keys()
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.predict(frame), expected)


def test_predict_wants_the_columns_of_fit():
    model = TorchPolynomialRegressor(2).fit(X, Y)
    with pytest.raises(ValueError, match="X has 3 features, but TorchPolynomialRegressor is expecting 2"):
        model.predict(np.ones((5, 3)))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.predict([[np.nan, 1.0]])


@pytest.mark.parametrize("attribute", ["coef_", "intercept_", "powers_", "module_", "rank_", "n_iter_"])
def test_nothing_is_there_before_fit(attribute):
    assert not hasattr(TorchPolynomialRegressor(), attribute)


def test_unfitted_methods_say_so():
    for call in (lambda model: model.predict(X), lambda model: model.equation()):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call(TorchPolynomialRegressor())


@pytest.mark.parametrize(
    ("n_rows", "n_features", "degree"), [(2_000_000, 40, 6), (50, 100, 10**6), (3, 1, 10**12), (3, 2, 10**30)]
)
def test_more_terms_than_memory_holds(n_rows, n_features, degree):
    # One value in memory, however many rows.
    huge = np.broadcast_to(np.float32(1.0), (n_rows, n_features))
    model = TorchPolynomialRegressor(degree)
    with pytest.raises(
        ValueError, match=rf"'degree' parameter got {degree}.* terms.*bytes.*greatest degree that fits is \d+"
    ):
        model.fit(huge, huge[:, 0])
    assert_unfitted(model)


def test_powers_beyond_floats_are_refused():
    with pytest.raises(ValueError, match=r"overflow.*'monomial'.*basis='orthonormal'"):
        TorchPolynomialRegressor(3, basis="monomial").fit(X * 1e150, Y)


def assert_unfitted(model):
    assert vars(model).keys() == model.get_params().keys()
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_an_interrupted_fit_leaves_the_estimator_as_it_was():
    class Interrupting(torch.optim.SGD):
        def step(self):
            raise KeyboardInterrupt

    model = TorchPolynomialRegressor(optimizer=Interrupting, lr=0.1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    assert_unfitted(model)
    model.set_params(optimizer="sgd").fit(X, Y)
    expected = model.predict(X)
    with pytest.raises(KeyboardInterrupt):
        model.set_params(optimizer=Interrupting).fit(X[:, :1], Y)
    np.testing.assert_array_equal(model.predict(X), expected)
