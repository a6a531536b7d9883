"""Optimizers, learning rates, stopping, and the textbooks' loops."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_squared_error

from torchpoly import TorchPolynomialRegressor
from torchpoly._train.optimizers import optimizer_names

X_SIN = np.linspace(-np.pi, np.pi, 2000)[:, None]
Y_SIN = np.sin(X_SIN[:, 0])
TRANSFORMATIONS = {
    "X*1e6": (lambda X: X * 1e6, lambda y: y),
    "X+1e6": (lambda X: X + 1e6, lambda y: y),
    "y*1e-9": (lambda X: X, lambda y: y * 1e-9),
    "y+1e9": (lambda X: X, lambda y: y + 1e9),
}


def sum_of_squares(model, X=X_SIN, y=Y_SIN):
    return np.sum((model.predict(X) - y) ** 2)


@pytest.fixture(scope="module")
def optimum():
    cubic = Polynomial.fit(X_SIN[:, 0], Y_SIN, 3)
    return np.sum((cubic(X_SIN[:, 0]) - Y_SIN) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_reaches_the_optimum_by_default(name, optimum):
    model = TorchPolynomialRegressor(optimizer=name).fit(X_SIN, Y_SIN)
    assert sum_of_squares(model) <= optimum * (1 + (1e-12 if name == "lbfgs" else 1e-3))
    for move, stretch in TRANSFORMATIONS.values():
        X, y = move(X_SIN), stretch(Y_SIN)
        r2 = TorchPolynomialRegressor(optimizer=name).fit(X, y).score(X, y)
        assert r2 == pytest.approx(model.score(X_SIN, Y_SIN), abs=1e-9 if name == "lbfgs" else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizer_names())
@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_every_optimizer_meets_tol_by_default(name, alpha, surface):
    X, Y = surface
    model = TorchPolynomialRegressor(optimizer=name, alpha=alpha).fit(X, Y)
    reference = TorchPolynomialRegressor(alpha=alpha).fit(X, Y)
    assert model.n_iter_ < 1000
    np.testing.assert_allclose(model.predict(X), reference.predict(X), atol=1e-6)


@pytest.mark.slow
def test_program_a_gradient_descent_by_hand():
    """The cubic fitted by hand in NumPy: sum of squares, learning rate 1e-6, 2400 rounds, from 0."""
    features = X_SIN ** np.arange(4)
    coefficients = np.zeros(4)
    for _ in range(2400):
        coefficients -= 1e-6 * 2 * features.T @ (features @ coefficients - Y_SIN)

    loop = TorchPolynomialRegressor(basis="monomial", optimizer="sgd", lr=1e-6 * 2000, n_iter=2400, tol=None)
    loop.fit(X_SIN, Y_SIN)
    np.testing.assert_allclose(np.r_[loop.intercept_, loop.term_coef_], coefficients, rtol=1e-8, atol=1e-12)
    assert loop.n_iter_ == len(loop.loss_curve_) == 2400
    assert loop.loss_curve_[-1] * 2000 == pytest.approx(np.sum((features @ coefficients - Y_SIN) ** 2))


def test_program_b_torch_autograd():
    """The same by autograd gives the same iterates, loss by loss."""
    x, y = torch.from_numpy(X_SIN[:, 0]), torch.from_numpy(Y_SIN)
    coefficients = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(100):
        loss = (sum(coefficients[k] * x**k for k in range(4)) - y).square().sum()
        losses.append(loss.item() / 2000)
        loss.backward()
        with torch.no_grad():
            coefficients -= 1e-6 * coefficients.grad
            coefficients.grad = None

    loop = TorchPolynomialRegressor(basis="monomial", optimizer="sgd", lr=2e-3, n_iter=99, tol=None).fit(X_SIN, Y_SIN)
    np.testing.assert_allclose(loop.loss_curve_, losses[1:], rtol=1e-10)


def test_program_c_linear_layer_with_rmsprop(optimum):
    """nn.Linear on (x, x^2, x^3) with RMSprop, from the same start: the same coefficients."""
    features = torch.from_numpy(X_SIN ** np.arange(1, 4))
    y = torch.from_numpy(Y_SIN)
    layer = torch.nn.utils.skip_init(torch.nn.Linear, 3, 1, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.RMSprop(layer.parameters(), lr=1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(layer(features)[:, 0], y).backward()
        optimizer.step()

    loop = TorchPolynomialRegressor(basis="monomial", optimizer="rmsprop", lr=1e-3, n_iter=300, tol=None)
    loop.fit(X_SIN, Y_SIN)
    # By symmetry the constant and x^2 have no gradient but rounding, which RMSprop divides by its size.
    np.testing.assert_allclose(loop.term_coef_[[0, 2]], layer.weight.detach().numpy()[0, [0, 2]], rtol=1e-7)
    np.testing.assert_allclose([loop.intercept_, loop.term_coef_[1]], 0.0, atol=1e-3)
    assert sum_of_squares(TorchPolynomialRegressor(optimizer="rmsprop").fit(X_SIN, Y_SIN)) <= optimum * 1.001


@pytest.mark.slow
def test_program_d_quadratic_with_noise(rng):
    """20 x^2 + 5 x - 3 and unit noise: the loop stops far from the least squares that one line reaches."""
    x = np.linspace(0, 1, 100)
    y = 20 * x**2 + 5 * x - 3 + rng.normal(size=100)
    best = Polynomial.fit(x, y, 2)
    X = x[:, None]

    model = TorchPolynomialRegressor(degree=2).fit(X, y)
    np.testing.assert_allclose(np.r_[model.intercept_, model.term_coef_], best.convert().coef, rtol=1e-10)
    loop = TorchPolynomialRegressor(2, basis="monomial", optimizer="sgd", lr=1e-3, n_iter=15000, tol=None).fit(X, y)
    assert loop.loss_curve_[-1] > 1.1 * np.mean((best(x) - y) ** 2)
    assert np.all(np.diff(loop.loss_curve_) < 0)


@pytest.mark.parametrize("basis", ["orthonormal", "chebyshev"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_last_loss_is_that_of_the_model(basis, weighted, alpha, surface, rng):
    X, Y = surface
    weights = rng.uniform(0, 2, len(X)) if weighted else None
    model = TorchPolynomialRegressor(basis=basis, alpha=alpha).fit(X, Y, weights)
    expected = mean_squared_error(Y, model.predict(X), sample_weight=weights)
    assert model.loss_curve_[-1] == pytest.approx(expected, rel=1e-9)


def test_penalty_is_that_of_ridge(surface, penalized_features):
    """alpha is Ridge's alpha per row, on the Chebyshev products divided by their degree to the power 3/2."""
    from sklearn.linear_model import Ridge

    X, Y = surface
    model = TorchPolynomialRegressor(alpha=0.05).fit(X, Y)
    features = penalized_features(model, X)
    ridge = Ridge(alpha=0.05 * len(X), solver="svd").fit(features, Y)

    np.testing.assert_allclose(model.predict(X), ridge.predict(features), rtol=1e-9, atol=1e-9)
    chebyshev = TorchPolynomialRegressor(alpha=0.05, basis="chebyshev", tol=1e-10).fit(X, Y)
    np.testing.assert_allclose(chebyshev.predict(X), ridge.predict(features), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        "ADAM",
        torch.optim.Adam,
        partial(torch.optim.Adam, amsgrad=True),
        partial(torch.optim.Adam, lr=0.05),
        partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        partial(torch.optim.LBFGS, max_iter=20, history_size=3),
    ],
)
def test_optimizer_by_name_class_and_partial(optimizer, optimum):
    model = TorchPolynomialRegressor(optimizer=optimizer, n_iter=3000).fit(X_SIN, Y_SIN)
    assert sum_of_squares(model) <= optimum * 1.001


def test_targets_train_as_if_alone(surface):
    X, Y = surface
    settings = {"optimizer": "adam", "lr": 0.01, "n_iter": 30, "tol": None}
    both = TorchPolynomialRegressor(**settings).fit(X, Y * [1.0, 1e6])
    for target in range(2):
        alone = TorchPolynomialRegressor(**settings).fit(X, Y[:, target])
        np.testing.assert_allclose(both.predict(X)[:, target], alone.predict(X) * [1.0, 1e6][target], rtol=1e-9)


def test_optimizers_of_the_users_own(optimum):
    class Demanding(torch.optim.SGD):
        def step(self, closure):
            closure().item()
            return super().step()

    class Plain(torch.optim.Optimizer):
        def __init__(self, params, lr=0.3):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.requires_grad:
                        parameter -= group["lr"] * parameter.grad
            self.zero_grad()

    class LBFGS(Demanding):
        """Called like torch's, but none."""

    for optimizer in (Demanding, Plain, LBFGS):
        model = TorchPolynomialRegressor(optimizer=optimizer, lr=0.3).fit(X_SIN, Y_SIN)
        assert sum_of_squares(model) <= optimum * (1 + 1e-9)


def test_warns_where_n_iter_ends_before_tol_is_met(rng):
    with pytest.warns(ConvergenceWarning, match=r"after 5 iterations .* tol=1e-08.*Increase 'n_iter'"):
        TorchPolynomialRegressor(optimizer="adam", n_iter=5).fit(X_SIN, Y_SIN)
    with pytest.warns(ConvergenceWarning, match=r"loss grew from .*: increase 'n_iter'\.$"):
        TorchPolynomialRegressor(optimizer="adam", batch_size=100, n_iter=3).fit(
            rng.normal(size=(300, 2)), rng.normal(size=300)
        )
    with pytest.warns(ConvergenceWarning, match=r"loss grew from .*'lr' smaller than 1.1"):
        TorchPolynomialRegressor(optimizer="sgd", lr=1.1, n_iter=5).fit(X_SIN, Y_SIN)


def test_the_warning_points_at_the_line_that_called_fit():
    with pytest.warns(ConvergenceWarning) as record:
        TorchPolynomialRegressor(optimizer="adam", n_iter=5).fit(X_SIN, Y_SIN)
    assert record[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_no_warning_without_tol():
    model = TorchPolynomialRegressor(optimizer="adam", n_iter=5, tol=None).fit(X_SIN, Y_SIN)
    assert model.n_iter_ == 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("optimizer", "basis"), [("sgd", "orthonormal"), ("sgd", "monomial"), ("adagrad", "chebyshev")]
)
def test_divergence_is_an_error_that_names_lr(optimizer, basis):
    model = TorchPolynomialRegressor(optimizer=optimizer, basis=basis, lr=1e300, n_iter=5000)
    with pytest.raises(ValueError, match=r"diverged.*lr=1e\+300.*smaller 'lr'"):
        model.fit(X_SIN, Y_SIN)
    assert not hasattr(model, "term_coef_")


@pytest.mark.filterwarnings("error")
def test_losses_beyond_floats_are_infinite_and_no_divergence():
    model = TorchPolynomialRegressor(optimizer="adam").fit(X_SIN, Y_SIN * 1e160)
    assert np.isposinf(model.loss_curve_).all()
    np.testing.assert_allclose(
        model.predict(X_SIN) / 1e160, TorchPolynomialRegressor().fit(X_SIN, Y_SIN).predict(X_SIN), atol=1e-7
    )


def test_verbose_prints_iteration_and_loss(capsys):
    TorchPolynomialRegressor(optimizer="adam", n_iter=25, tol=None, verbose=10).fit(X_SIN, Y_SIN)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "[TorchPolynomialRegressor] iteration 10",
        "[TorchPolynomialRegressor] iteration 20",
    ]
    TorchPolynomialRegressor().fit(X_SIN, Y_SIN)
    assert capsys.readouterr().out == ""


def test_the_same_data_give_the_same_bits(surface):
    X, Y = surface
    first, second = (TorchPolynomialRegressor(optimizer="adam").fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    np.testing.assert_array_equal(first.term_coef_, second.term_coef_)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("loss", ["squared_error", "huber", "absolute_error", torch.nn.HuberLoss()], ids=str)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("batch_size", [32, 300])
def test_mini_batches_come_close_to_the_optimum(loss, optimizer, batch_size, surface):
    X, Y = surface
    best = TorchPolynomialRegressor(loss=loss).fit(X, Y).predict(X)
    settings = {"loss": loss, "optimizer": optimizer, "batch_size": batch_size, "n_iter": 100}
    model = TorchPolynomialRegressor(**settings).fit(X, Y)
    assert np.abs(model.predict(X) - best).mean() < 0.02 * best.std()
    assert model.n_iter_ <= 100


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_random_state_repeats_the_shuffling(surface):
    X, Y = surface

    def predictions(random_state):
        settings = {"optimizer": "adam", "batch_size": 64, "n_iter": 3, "random_state": random_state}
        return TorchPolynomialRegressor(**settings).fit(X, Y).predict(X)

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(predictions(7), predictions(7))
    np.testing.assert_array_equal(predictions(None), predictions(None))
    np.testing.assert_array_equal(predictions(np.random.RandomState(7)), predictions(7))
    assert np.abs(predictions(7) - predictions(8)).max() > 0
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_n_iter_counts_passes(surface):
    X, Y = surface
    steps = []

    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            steps.append(1)
            return super().step(closure)

    model = TorchPolynomialRegressor(optimizer=Counting, lr=0.01, batch_size=128, n_iter=4, tol=None).fit(X, Y)
    assert len(steps) == 4 * 3  # 300 rows are three batches of at most 128
    assert model.n_iter_ == len(model.loss_curve_) == 4


@pytest.mark.parametrize("basis", ["orthonormal", "chebyshev"])
@pytest.mark.parametrize("loss", ["squared_error", "huber", "absolute_error", torch.nn.HuberLoss()], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_warm_start_goes_on_from_the_fitted_polynomial(basis, loss, alpha, surface, rng):
    X, Y = surface
    model = TorchPolynomialRegressor(2).fit(X, Y)
    before = model.predict(X)
    # A step too small to be seen.
    model.set_params(degree=4, basis=basis, loss=loss, alpha=alpha, warm_start=True)
    model.set_params(optimizer="sgd", lr=1e-15, n_iter=1, tol=None).fit(X, Y)
    np.testing.assert_allclose(model.predict(X), before, atol=1e-8)
    far = X + (X - X.mean(axis=0))
    np.testing.assert_allclose(model.predict(far), TorchPolynomialRegressor(2).fit(X, Y).predict(far), rtol=1e-5)
    # Rows of another range make another basis, for the same polynomial.
    model.fit(far, rng.normal(size=Y.shape))
    np.testing.assert_allclose(model.predict(X), before, atol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warm_starts_add_up_to_one_training(surface):
    X, Y = surface
    settings = {"optimizer": "sgd", "lr": 0.1, "tol": None}
    once = TorchPolynomialRegressor(n_iter=30, **settings).fit(X, Y)
    thrice = TorchPolynomialRegressor(n_iter=10, warm_start=True, **settings)
    losses = np.concatenate([thrice.fit(X, Y).loss_curve_ for _ in range(3)])
    np.testing.assert_allclose(thrice.predict(X), once.predict(X), atol=1e-10)
    np.testing.assert_allclose(losses, once.loss_curve_, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("optimizer", ["sgd", "asgd", "adam"])
@pytest.mark.parametrize("batch_size", [1, 2, 59])
def test_the_smallest_batches_do_not_diverge_by_default(optimizer, batch_size, rng):
    X = rng.normal(size=(60, 2))
    y = X[:, 0] ** 2 + 0.3 * rng.normal(size=60)
    least = TorchPolynomialRegressor(2).fit(X, y).loss_curve_[-1]
    model = TorchPolynomialRegressor(2, optimizer=optimizer, batch_size=batch_size, n_iter=100).fit(X, y)
    assert model.loss_curve_[-1] < 1.05 * least
