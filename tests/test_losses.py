"""Losses other than the squared error, against scikit-learn's and SciPy's solvers."""

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial
from scipy import optimize
from sklearn.linear_model import HuberRegressor, PoissonRegressor, QuantileRegressor
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

import torchpoly._gram.reading
import torchpoly._polynomial.module
import torchpoly._train.loss_rows
from torchpoly import TorchPolynomialRegressor
from torchpoly._gram.target_statistics import mean_and_deviation
from torchpoly._loss.base import Stages
from torchpoly._loss.custom import CallableLoss
from torchpoly._loss.named import LOSSES
from torchpoly._train.optimizers import optimizer_names


def squared(y_pred, y_true):
    return (y_pred - y_true) ** 2


def log_cosh(y_pred, y_true):
    return torch.log(torch.cosh(y_pred - y_true))


NAMED = [
    {"loss": "absolute_error"},
    {"loss": "huber"},
    {"loss": "huber", "epsilon": 2.0},
    {"loss": "quantile", "quantile": 0.1},
    {"loss": "quantile", "quantile": 0.9},
]
PER_SAMPLE = [*NAMED, {"loss": squared}, {"loss": log_cosh}, {"loss": torch.nn.SmoothL1Loss(reduction="none")}]


def name(settings):
    return " ".join(getattr(value, "__name__", str(value)) for value in settings.values())


@pytest.fixture
def heavy_tailed(rng):
    """A cubic surface under noise of Student's t with 1.5 degrees of freedom, which has no variance."""
    X = rng.uniform(-1, 1, (2000, 3))
    return X, X[:, 0] ** 3 - 2 * X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + 0.3 * rng.standard_t(1.5, 2000)


def orthonormal_features(X, degree=3):
    """Orthonormal columns that span the polynomials, without the constant, on which solvers are at their best."""
    powers = TorchPolynomialRegressor(degree).fit(X, X[:, 0]).powers_
    features = np.column_stack([np.ones(len(X)), *(np.prod(X**power, axis=1) for power in powers)])
    return np.linalg.qr(features)[0][:, 1:] * np.sqrt(len(X))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_reaches_the_optimum_of_linear_programming(quantile, heavy_tailed):
    X, y = heavy_tailed
    features = orthonormal_features(X)
    program = QuantileRegressor(quantile=quantile, alpha=0).fit(features, y)
    least = mean_pinball_loss(y, program.predict(features), alpha=quantile)

    model = TorchPolynomialRegressor(loss="quantile", quantile=quantile).fit(X, y)
    assert least * (1 - 1e-9) <= mean_pinball_loss(y, model.predict(X), alpha=quantile) <= least * (1 + 1e-6)
    assert np.mean(y < model.predict(X)) == pytest.approx(quantile, abs=20 / 2000)
    if quantile == 0.5:
        absolute = TorchPolynomialRegressor(loss="absolute_error").fit(X, y)
        np.testing.assert_allclose(absolute.predict(X), model.predict(X), atol=1e-6)


@pytest.mark.parametrize("epsilon", [1.1, 1.35, 3.0])
def test_huber_is_huber_regressor(epsilon, heavy_tailed):
    X, y = heavy_tailed
    features = orthonormal_features(X)
    reference = HuberRegressor(epsilon=epsilon, alpha=0, tol=1e-10, max_iter=10_000).fit(features, y)
    model = TorchPolynomialRegressor(loss="huber", epsilon=epsilon).fit(X, y)

    deviation = reference.predict(features).std()
    np.testing.assert_allclose(model.predict(X), reference.predict(features), atol=1e-4 * deviation)
    assert model.scale_ == pytest.approx(reference.scale_, rel=1e-4)
    assert model.n_iter_ < 50


def test_huber_with_the_least_epsilon_is_the_absolute_error(heavy_tailed):
    X, y = heavy_tailed
    least = TorchPolynomialRegressor(loss="absolute_error").fit(X, y).loss_curve_[-1]
    model = TorchPolynomialRegressor(loss="huber", epsilon=1.0).fit(X, y)
    assert mean_absolute_error(y, model.predict(X)) == pytest.approx(least, rel=1e-6)


def test_hubers_penalty_is_that_of_huber_regressor(heavy_tailed, penalized_features):
    X, y = heavy_tailed
    model = TorchPolynomialRegressor(loss="huber", alpha=0.05).fit(X, y)
    targets, features = model._polynomial.targets, penalized_features(model, X)
    spread = np.median(np.abs(y - np.median(y)))
    assert targets.center[0] == pytest.approx(np.median(y), abs=1e-2 * spread)
    assert targets.scale[0] == pytest.approx(spread, rel=1e-2)

    reference = HuberRegressor(alpha=0.05 * len(X), tol=1e-10, max_iter=10_000)
    reference.fit(features, (y - targets.center) / targets.scale)
    expected = targets.center + targets.scale * reference.predict(features)
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-4 * y.std())


@pytest.mark.parametrize(
    "loss",
    [log_cosh, torch.nn.HuberLoss(), torch.nn.HuberLoss(delta=0.1), torch.nn.SmoothL1Loss(reduction="sum")],
    ids=lambda loss: getattr(loss, "__name__", str(loss)),
)
def test_callables_reach_scipys_optimum(loss, heavy_tailed):
    X, y = heavy_tailed
    features = np.column_stack([np.ones(len(X)), orthonormal_features(X)])

    def value(coefficients):
        return float(loss(torch.from_numpy(features @ coefficients), torch.from_numpy(y)).mean())

    model = TorchPolynomialRegressor(loss=loss).fit(X, y)
    start = np.linalg.lstsq(features, model.predict(X), rcond=None)[0]
    best = optimize.minimize(value, 0.9 * start, method="BFGS", options={"gtol": 1e-9})
    assert value(start) <= best.fun * (1 + 1e-9)
    np.testing.assert_allclose(features @ best.x, model.predict(X), atol=1e-3)
    assert model.loss_curve_[-1] == pytest.approx(value(start), rel=1e-9)


@pytest.mark.slow
def test_program_d_with_its_loss_as_a_function(rng):
    x = np.linspace(0, 1, 100)
    y = 20 * x**2 + 5 * x - 3 + rng.normal(size=100)
    best = Polynomial.fit(x, y, 2).convert().coef
    for optimizer in ("lbfgs", "adam", "sgd"):
        model = TorchPolynomialRegressor(2, loss=squared, optimizer=optimizer).fit(x[:, None], y)
        np.testing.assert_allclose(np.r_[model.intercept_, model.term_coef_], best, rtol=1e-3)
    loop = TorchPolynomialRegressor(2, loss=squared, basis="monomial", optimizer="adam", lr=0.1, n_iter=5000)
    loop.fit(x[:, None], y)
    np.testing.assert_allclose(np.r_[loop.intercept_, loop.term_coef_], best, rtol=1e-3)


def test_a_callable_gets_y_as_it_is():
    seen = []

    def loss(y_pred, y_true):
        seen.append((y_pred.dtype, y_true.clone()))
        return torch.where(y_true == 3.0, 10.0, 1.0) * (y_pred - y_true) ** 2

    y = np.array([1.0, 2.0, 3.0, 4.0])
    model = TorchPolynomialRegressor(0, loss=loss).fit(np.arange(4.0)[:, None], y)
    assert {dtype for dtype, _ in seen} == {torch.float64}
    np.testing.assert_array_equal(seen[0][1].numpy(), y)
    assert model.intercept_ == pytest.approx(np.average(y, weights=[1, 1, 10, 1]))
    TorchPolynomialRegressor(0, loss=loss).fit(np.arange(4.0)[:, None], np.column_stack([y, y]))
    assert seen[-1][1].shape == (4, 2)


def test_a_squared_function_is_the_squared_error_penalty_included(surface):
    X, Y = surface
    for alpha in (0.0, 0.01):
        own = TorchPolynomialRegressor(loss=lambda p, t: ((p - t) ** 2).mean(), alpha=alpha).fit(X, 7 * Y[:, 0])
        named = TorchPolynomialRegressor(alpha=alpha).fit(X, 7 * Y[:, 0])
        np.testing.assert_allclose(own.predict(X), named.predict(X), atol=1e-6)
        assert own.loss_curve_[-1] == pytest.approx(named.loss_curve_[-1])


@pytest.mark.parametrize("settings", PER_SAMPLE, ids=name)
def test_weight_is_repetition(settings, heavy_tailed, rng):
    X, y = heavy_tailed[0][:300], heavy_tailed[1][:300]
    weights = rng.integers(0, 4, 300)
    rows = np.repeat(np.arange(300), weights)
    weighted = TorchPolynomialRegressor(2, **settings).fit(X, y, sample_weight=weights)
    repeated = TorchPolynomialRegressor(2, **settings).fit(X[rows], y[rows])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6, atol=1e-6)
    assert weighted.loss_curve_[-1] == pytest.approx(repeated.loss_curve_[-1])


@pytest.mark.parametrize("settings", PER_SAMPLE, ids=name)
def test_targets_are_fitted_as_if_alone(settings, surface):
    X, Y = surface
    Y = Y * [1.0, 3.0]
    both = TorchPolynomialRegressor(**settings).fit(X, Y)
    for target in range(2):
        alone = TorchPolynomialRegressor(**settings).fit(X, Y[:, target])
        np.testing.assert_allclose(both.predict(X)[:, target], alone.predict(X), atol=1e-5)
    if settings["loss"] == "huber":
        assert both.scale_.shape == (2,)


@pytest.mark.parametrize("settings", NAMED, ids=name)
def test_units_do_not_matter(settings, heavy_tailed):
    X, y = heavy_tailed
    model = TorchPolynomialRegressor(**settings).fit(X, y)
    moved = TorchPolynomialRegressor(**settings).fit(X * 1e6 + 1e7, y * 1e-9)
    np.testing.assert_allclose(moved.predict(X * 1e6 + 1e7) * 1e9, model.predict(X), atol=1e-5)
    shifted = TorchPolynomialRegressor(**settings).fit(X, y + 1e6)
    np.testing.assert_allclose(shifted.predict(X) - 1e6, model.predict(X), atol=1e-5)


@pytest.mark.parametrize("settings", [{"loss": "absolute_error"}, {"loss": "huber"}], ids=name)
@pytest.mark.parametrize("size", [1e3, 1e12])
def test_gross_outliers_do_not_move_the_fit(settings, size, rng):
    X = rng.uniform(-1, 1, (500, 2))
    clean = X[:, 0] ** 3 - X[:, 0] * X[:, 1]
    y = clean + 1e-3 * rng.normal(size=500)
    y[::10] += size
    model = TorchPolynomialRegressor(**settings).fit(X, y)
    assert np.abs(model.predict(X) - clean).max() < 2e-3


@pytest.mark.parametrize(
    ("settings", "metric"),
    [
        ({"loss": "absolute_error"}, mean_absolute_error),
        ({"loss": "quantile", "quantile": 0.2}, lambda y, p, **w: mean_pinball_loss(y, p, alpha=0.2, **w)),
        ({"loss": squared, "optimizer": "adam"}, mean_squared_error),
        ({"batch_size": 100, "optimizer": "adam"}, mean_squared_error),
    ],
    ids=lambda value: name(value) if isinstance(value, dict) else "",
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_last_loss_is_that_of_the_model(settings, metric, surface, rng):
    X, Y = surface
    weights = rng.uniform(0, 2, len(X))
    for n_iter in (3, 100):
        model = TorchPolynomialRegressor(n_iter=n_iter, tol=None, **settings).fit(X, Y[:, 0], weights)
        expected = metric(Y[:, 0], model.predict(X), sample_weight=weights)
        assert model.loss_curve_[-1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", optimizer_names())
def test_every_optimizer_reaches_hubers_optimum(optimizer, heavy_tailed):
    X, y = heavy_tailed
    best = TorchPolynomialRegressor(loss="huber").fit(X, y)
    model = TorchPolynomialRegressor(loss="huber", optimizer=optimizer).fit(X, y)
    np.testing.assert_allclose(model.predict(X), best.predict(X), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("loss", ["absolute_error", lambda p, t: (p - t).abs()], ids=["named", "callable"])
def test_first_order_optimizers_settle_on_kinks(loss, heavy_tailed):
    X, y = heavy_tailed
    least = TorchPolynomialRegressor(loss="absolute_error").fit(X, y).loss_curve_[-1]
    for optimizer in ("adam", "sgd", "rmsprop"):
        assert TorchPolynomialRegressor(loss=loss, optimizer=optimizer).fit(X, y).loss_curve_[-1] < least * (1 + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [*PER_SAMPLE, {"loss": "huber", "batch_size": 64, "optimizer": "adam"}], ids=name)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_features_beyond_the_memory_budget_are_evaluated_anew(settings, surface, rng, monkeypatch):
    X, Y = surface
    weights = rng.integers(0, 3, len(X))
    kept = TorchPolynomialRegressor(n_iter=200, **settings).fit(X, Y, weights)
    monkeypatch.setattr(torchpoly._train.loss_rows, "_MAX_KEPT_BYTES", 0)
    monkeypatch.setattr(torchpoly._gram.design_matrix, "vector_chunk_size", lambda n_columns: 70)
    rebuilt = TorchPolynomialRegressor(n_iter=200, **settings).fit(X, Y, weights)
    np.testing.assert_allclose(rebuilt.predict(X), kept.predict(X), atol=1e-6)


@pytest.mark.parametrize("settings", NAMED, ids=name)
def test_more_terms_than_rows_interpolate(settings, rng):
    X, y = rng.normal(size=(20, 4)), rng.normal(size=20)
    model = TorchPolynomialRegressor(**settings).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-6)


@pytest.mark.parametrize("settings", NAMED, ids=name)
def test_data_without_noise_are_met(settings, rng):
    X = rng.uniform(-1, 1, (200, 2))
    y = 1 + X[:, 0] ** 3 - 2 * X[:, 1]
    assert TorchPolynomialRegressor(**settings).fit(X, y).equation(4) == "y = 1 - 2*x1 + 1*x0**3"
    constant = TorchPolynomialRegressor(**settings).fit(X, np.full(200, 3.0))
    np.testing.assert_allclose(constant.predict(X), 3.0, atol=1e-7)


@pytest.mark.parametrize("quantile", [0.2, 0.5])
def test_a_constant_is_the_quantile(quantile, rng):
    y = rng.standard_cauchy(101)
    model = TorchPolynomialRegressor(0, loss="quantile", quantile=quantile).fit(y[:, None], y)
    assert model.intercept_ == pytest.approx(np.quantile(y, quantile, method="inverted_cdf"), abs=1e-4)


@pytest.mark.parametrize("settings", [{"loss": "huber"}, {"loss": "absolute_error"}, {"loss": log_cosh}], ids=name)
@pytest.mark.parametrize("basis", ["chebyshev", "monomial"])
def test_other_bases_have_the_same_optimum(settings, basis, rng):
    X = rng.uniform(-1, 1, (400, 2))
    y = X[:, 0] - X[:, 1] ** 2 + 0.1 * rng.standard_t(2, 400)
    best = TorchPolynomialRegressor(2, **settings).fit(X, y)
    model = TorchPolynomialRegressor(2, basis=basis, **settings).fit(X, y)
    assert model.loss_curve_[-1] == pytest.approx(best.loss_curve_[-1], rel=1e-5)


def loss_of(settings, targets):
    """The loss of an estimator with these settings, for targets of shape (n_targets, n_rows)."""
    if isinstance(settings["loss"], str):
        kind, defaults = LOSSES[settings["loss"]], {"epsilon": 1.35, "quantile": 0.5}
        options = {name: settings.get(name, defaults[name]) for name in kind.parameters}
        return kind(np.ones(len(targets)), **options)
    scale = mean_and_deviation(targets.T)
    return CallableLoss(settings["loss"], scale, single_target=len(targets) == 1, weighted=True)


@pytest.mark.parametrize("settings", PER_SAMPLE, ids=name)
def test_tensors_give_what_arrays_give(settings, rng):
    """On other devices predictions are tensors."""
    predictions, targets = rng.normal(size=(2, 2, 50))
    shares = rng.dirichlet(np.ones(50))
    evaluations = []
    for convert in (np.asarray, torch.from_numpy):
        loss = loss_of(settings, targets)
        here = convert(predictions), convert(targets), convert(shares)
        loss.initialize(*here, Stages.ALL)
        hessian_weights = loss.hessian_weights(*here[:2])
        hessian_weights = None if hessian_weights is None else np.asarray(hessian_weights)
        evaluations.append((*map(np.asarray, loss(*here)), hessian_weights))
    for array, tensor in zip(*evaluations, strict=True):
        if array is not None:
            np.testing.assert_allclose(array, tensor, rtol=1e-12)


@pytest.mark.parametrize("settings", PER_SAMPLE, ids=name)
def test_slopes_are_derivatives(settings, rng):
    predictions, targets = rng.normal(size=(2, 1, 30))
    shares = rng.dirichlet(np.ones(30))
    loss = loss_of(settings, targets)
    loss.initialize(predictions, targets, shares, Stages.ALL)
    direction = rng.normal(size=predictions.shape)
    ahead, behind = (loss(predictions + step * direction, targets, shares).values for step in (1e-6, -1e-6))
    slope = (loss(predictions, targets, shares).slopes * direction).sum()
    assert slope == pytest.approx((ahead - behind)[0] / 2e-6, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, *PER_SAMPLE, {"loss": "huber", "batch_size": 64, "optimizer": "adam"}], ids=name
)
@pytest.mark.parametrize("budget", [0, 2**28])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_on_tensors_are_those_on_arrays(settings, budget, surface, rng, monkeypatch):
    """What other devices do, done on the CPU."""
    X, Y = surface
    weights = rng.integers(0, 3, len(X))
    on_arrays = TorchPolynomialRegressor(n_iter=100, extrapolation="linear", **settings).fit(X, Y, weights)
    far = 2 * X
    expected = on_arrays.predict(X), on_arrays.predict(far)
    monkeypatch.setattr(torchpoly._train.loss_rows, "_MAX_KEPT_BYTES", budget)
    on_tensors = TorchPolynomialRegressor(n_iter=100, extrapolation="linear", device="cpu:0", **settings)
    on_tensors.fit(X, Y, weights)
    np.testing.assert_allclose(on_tensors.predict(X), expected[0], atol=1e-6)
    np.testing.assert_allclose(on_tensors.predict(far), expected[1], rtol=1e-4)


@pytest.mark.parametrize("log_mean", [1, 4, 6, 8, 12])
@pytest.mark.filterwarnings("error")
def test_a_loss_in_logarithms_of_the_rate(log_mean, rng):
    """Its curvature at the mean of y is e to the mean; the optimum is far from there."""
    X = rng.normal(size=(300, 1))
    counts = rng.poisson(np.exp(log_mean + 0.5 * X[:, 0]))
    reference = PoissonRegressor(alpha=0, solver="newton-cholesky", tol=1e-10).fit(X, counts)
    model = TorchPolynomialRegressor(1, loss=torch.nn.PoissonNLLLoss()).fit(X, counts)
    np.testing.assert_allclose(
        [model.intercept_, *model.term_coef_], [reference.intercept_, *reference.coef_], rtol=1e-5
    )


@pytest.mark.parametrize("settings", [{"loss": "absolute_error"}, {"loss": "quantile"}, {"loss": "huber"}], ids=name)
@pytest.mark.parametrize("signal", [1.0, 1e2, 1e4])
@pytest.mark.filterwarnings("error")
def test_outliers_beside_a_good_signal(settings, signal, rng):
    X = rng.uniform(-1, 1, (400, 1))
    clean = signal * (X[:, 0] + X[:, 0] ** 3)
    y = clean + 1e-3 * rng.normal(size=400)
    y[rng.choice(400, 40, replace=False)] += 1e8 * signal
    model = TorchPolynomialRegressor(**settings).fit(X, y)
    assert np.abs(model.predict(X) - clean).max() < 1e-3


@pytest.mark.parametrize("quantile", [0.01, 0.99])
def test_extreme_quantiles(quantile, heavy_tailed):
    X, y = heavy_tailed
    features = orthonormal_features(X, 2)
    program = QuantileRegressor(quantile=quantile, alpha=0).fit(features, y)
    least = mean_pinball_loss(y, program.predict(features), alpha=quantile)
    model = TorchPolynomialRegressor(2, loss="quantile", quantile=quantile).fit(X, y)
    assert mean_pinball_loss(y, model.predict(X), alpha=quantile) <= least * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", NAMED, ids=name)
def test_few_rows_one_of_them_wild(settings, rng):
    """The rounding of one row is more than the residuals of others: training knows when to stop."""
    X, y = rng.uniform(-1, 1, (6, 1)), rng.normal(size=6)
    y[0] *= 1e9
    model = TorchPolynomialRegressor(6, **settings).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-4)
    assert model.n_iter_ < 500


@pytest.mark.slow
@pytest.mark.parametrize("settings", NAMED, ids=name)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_warm_start_is_never_worse(settings, surface):
    X, Y = surface
    model = TorchPolynomialRegressor(warm_start=True, **settings).fit(X, Y)
    least = model.loss_curve_[-1]
    for n_iter in (1, 2, 5):
        assert model.set_params(n_iter=n_iter).fit(X, Y).loss_curve_[-1] <= least * (1 + 1e-9)
    model.set_params(n_iter=1000).fit(X + 10 * X.std(axis=0), Y)
    assert model.loss_curve_[-1] == pytest.approx(least, rel=1e-7)
    stepwise = TorchPolynomialRegressor(warm_start=True, n_iter=10, tol=None, **settings)
    for _ in range(20):
        stepwise.fit(X, Y)
    assert stepwise.loss_curve_[-1] <= least * (1 + 1e-6)


@pytest.mark.parametrize("settings", NAMED, ids=name)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_wild_target_does_not_disturb_the_others(settings, rng):
    X = rng.normal(size=(300, 2))
    tame, wild = X[:, 0] + rng.normal(size=300), rng.normal(size=300)
    wild[:30] *= 1e8
    both = TorchPolynomialRegressor(**settings).fit(X, np.column_stack([wild, tame]))
    alone = TorchPolynomialRegressor(**settings).fit(X, tame)
    np.testing.assert_allclose(both.predict(X)[:, 1], alone.predict(X), atol=1e-8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("settings", [{"loss": "quantile", "quantile": 0.9}, {"loss": "absolute_error"}], ids=name)
@pytest.mark.parametrize("batch_size", [None, 7])
def test_gradient_descent_takes_steps_that_fit_few_rows(settings, batch_size, rng):
    X = rng.normal(size=(46, 2))
    y = np.tanh(X @ [1, 0.5]) + 0.3 * rng.normal(size=46)
    least = TorchPolynomialRegressor(2, **settings).fit(X, y).loss_curve_[-1]
    model = TorchPolynomialRegressor(2, optimizer="sgd", batch_size=batch_size, **settings).fit(X, y)
    assert model.loss_curve_[-1] < 1.01 * least
