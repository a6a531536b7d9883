"""Bad input: what the message says, and that the estimator is left as it was."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._gram import reading

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
        ("loss", "hinge", "'absolute_error'"),
        ("loss", None, "callable"),
        ("epsilon", 0.99, r"range \[1.0"),
        ("epsilon", np.nan, r"range \[1.0"),
        ("quantile", 0.0, r"range \(0.0"),
        ("quantile", 1.0, r"range \(0.0"),
        ("quantile", -3, r"range \(0.0"),
        ("batch_size", 0, r"range \[1"),
        ("batch_size", 2.5, "int"),
        ("extrapolation", "periodic", "'continue'"),
        ("random_state", "seed", "RandomState"),
        ("warm_start", "yes", "bool"),
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


@pytest.mark.parametrize("attribute", ["term_coef_", "intercept_", "powers_", "module_", "rank_", "n_iter_"])
def test_nothing_is_there_before_fit(attribute):
    assert not hasattr(TorchPolynomialRegressor(), attribute)


def test_unfitted_methods_say_so():
    for call in (lambda model: model.predict(X), lambda model: model.equation()):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call(TorchPolynomialRegressor())


@pytest.mark.parametrize(
    ("n_rows", "n_features", "degree"), [(2_000_000, 40, 6), (50, 100, 10**6), (6, 1, 10**12), (6, 2, 10**30)]
)
def test_more_terms_than_memory_holds(n_rows, n_features, degree):
    # One column in memory, however many there are.
    huge = np.broadcast_to(np.arange(n_rows, dtype=np.float32)[:, None], (n_rows, n_features))
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


def no_number(y_pred, y_true):
    return (y_pred - y_true) ** 2 + torch.nan


def no_slope(y_pred, y_true):
    return torch.sqrt(0 * (y_pred - y_true))


@pytest.mark.parametrize(
    ("loss", "weights", "message"),
    [
        (no_number, None, "'loss' parameter got no_number, which where training starts returned.*nan"),
        (no_slope, None, "'loss' parameter got no_slope.*gradient that is not finite"),
        (lambda p, t: (p - t).detach().numpy(), None, "returned an object of type ndarray.*must return a torch.Tensor"),
        (lambda p, t: ((p - t) ** 2).mean().item(), None, "returned an object of type float"),
        (lambda p, t: ((p - t) ** 2).detach(), None, "returned a tensor without gradient"),
        (lambda p, t: (p > t).double(), None, "returned a tensor without gradient"),
        (lambda p, t: (p - t)[:-1] ** 2, None, r"returned a tensor of shape \(29,\).*of shape \(30,\) here"),
        (lambda p, t: (p[:, None] - t) ** 2, None, r"returned a tensor of shape \(30, 30\)"),
        (torch.nn.HuberLoss, None, r"'loss' parameter got the class HuberLoss; .* HuberLoss\(\)"),
        (torch.nn.HuberLoss(), Y**2, r"a single value.*'sample_weight'.*reduction='none'"),
    ],
)
def test_callables_that_are_no_losses(loss, weights, message):
    model = TorchPolynomialRegressor(2, loss=loss)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, sample_weight=weights)
    assert_unfitted(model)
    model.set_params(loss="squared_error").fit(X, Y)
    expected = model.predict(X)
    with pytest.raises(ValueError, match=message):
        model.set_params(loss=loss).fit(X[:, :1], Y, sample_weight=weights)
    np.testing.assert_array_equal(model.predict(X), expected)


def test_a_reduced_callable_takes_weights_that_are_all_the_same():
    loss = torch.nn.HuberLoss()
    expected = TorchPolynomialRegressor(2, loss=loss).fit(X, Y).predict(X)
    same = TorchPolynomialRegressor(2, loss=loss).fit(X, Y, sample_weight=np.full(30, 3.0))
    np.testing.assert_allclose(same.predict(X), expected)


def test_what_a_callable_raises_says_how_it_was_called():
    model = TorchPolynomialRegressor(2, loss=lambda p, t: np.abs(p - t))
    with pytest.raises(RuntimeError, match="numpy") as caught:
        model.fit(X, Y)
    assert "'loss' parameter <lambda>" in caught.value.__notes__[0]
    assert "torch functions" in caught.value.__notes__[0]
    assert_unfitted(model)


def test_a_loss_that_fails_on_the_way_is_divergence():
    calls = []

    def loss(y_pred, y_true):
        calls.append(1)
        return torch.abs(y_pred - y_true) ** (1.5 if len(calls) < 20 else torch.nan)

    model = TorchPolynomialRegressor(2, loss=loss, optimizer="sgd")
    with pytest.raises(ValueError, match="Training diverged: the loss is not finite after iteration"):
        model.fit(X, Y)
    assert_unfitted(model)


def test_batches_must_fit_the_rows_and_the_optimizer():
    with pytest.raises(ValueError, match="'batch_size' parameter got 31, more than the 30 rows"):
        TorchPolynomialRegressor(batch_size=31, optimizer="adam").fit(X, Y)
    with pytest.raises(ValueError, match="'batch_size' parameter got 31, more than the 20 rows of positive weight"):
        TorchPolynomialRegressor(batch_size=31, optimizer="adam").fit(X, Y, np.arange(30) < 20)
    with pytest.raises(ValueError, match=r"'batch_size' parameter got 10 with an L-BFGS optimizer.*optimizer='adam'"):
        TorchPolynomialRegressor(batch_size=10).fit(X, Y)


def test_a_warm_start_wants_the_same_columns_and_targets():
    model = TorchPolynomialRegressor(2, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=r"'warm_start' parameter got True.*2 features and 1 targets.*1 and 1"):
        model.fit(X[:, :1], Y)
    with pytest.raises(ValueError, match=r"2 features and 1 targets.*2 and 2"):
        model.fit(X, np.column_stack([Y, Y]))
    assert model.n_features_in_ == 2


def test_extrapolation_error_names_columns_and_row():
    model = TorchPolynomialRegressor(2, extrapolation="error").fit(X, Y)
    model.predict(X)
    far = X.copy()
    far[7, 1] = 1.5
    with pytest.raises(ValueError, match=r"columns \[1\], first in row 7.*'extrapolation' parameter got 'error'"):
        model.predict(far)
    with pytest.raises(ValueError, match="'extrapolation' parameter got 'error'"):
        model.module_(torch.tensor(far))


def test_none_among_targets(rng):
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20).astype(object)
    y[3] = None
    for method in (TorchPolynomialRegressor().fit, TorchPolynomialRegressor().partial_fit):
        with pytest.raises(ValueError, match="Input y contains NaN"):
            method(X, y)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="Input contains NaN"):  # of the first fold, by its scorer
        search.fit(X, y)


@pytest.mark.parametrize("exponent", [60, 100, 120])
@pytest.mark.parametrize("alpha", [0.0, 1e-3])
@pytest.mark.filterwarnings("error")
def test_powers_of_few_rows_that_overflow(exponent, alpha, rng, monkeypatch):
    X, y = 10.0**exponent * rng.normal(size=(30, 5)), rng.normal(size=30)
    for held in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(reading, "is_dense", lambda *_, held=held: held)
            with pytest.raises(ValueError, match="The powers of X overflow"):
                TorchPolynomialRegressor(basis="monomial", alpha=alpha).fit(X, y)
