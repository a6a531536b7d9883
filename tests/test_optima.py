"""Losses end at their optimum: quantiles beside linear programming, links beside scikit-learn's GLMs."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import GammaRegressor, TweedieRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import PolynomialFeatures

import torchpoly._train.loss_rows
from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

without_warning = pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")


def pinball(y, predictions, quantile, weights=None):
    residuals = y - predictions
    return np.average(np.maximum(quantile * residuals, (quantile - 1) * residuals), weights=weights)


def orthonormal(X, degree, weights):
    """Independent polynomials, orthonormal under the weights, on which solvers are at their best."""
    spread = np.ptp(X, axis=0)
    scaled = 2 * (X - X.min(axis=0)) / np.where(spread > 0, spread, 1.0) - 1
    roots = np.sqrt(weights / weights.sum())[:, None]
    left, sizes, _ = np.linalg.svd(PolynomialFeatures(degree).fit_transform(scaled) * roots, full_matrices=False)
    return left[:, sizes > 1e-9 * sizes[0]] / roots


def least_pinball(X, y, degree, quantile, weights):
    """The least loss by linear programming: HiGHS on the dual program, whose multipliers are coefficients."""
    used = weights > 0
    X, y, weights = X[used], y[used], weights[used] / weights[used].mean()
    center, size = np.median(y), np.ptp(y) or 1.0
    features, scaled = orthonormal(X, degree, weights), (y - center) / size
    bounds = np.column_stack([(quantile - 1) * weights, quantile * weights])
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    solution = linprog(
        -scaled, A_eq=features.T, b_eq=np.zeros(features.shape[1]), bounds=bounds, method="highs", options=options
    )
    return pinball(scaled, -features @ solution.eqlin.marginals, quantile, weights) * size


def tied_data(seed):
    """Few rows with levels in X, ties in y, or weights over six decades, in any combination."""
    rng = np.random.default_rng(seed)
    n_rows, n_columns = rng.integers(2, 50), rng.integers(1, 4)
    shape = n_rows, n_columns
    X = [rng.integers(0, 4, shape), rng.normal(size=shape), rng.integers(0, 2, shape), rng.normal(size=shape)][seed % 4]
    if seed % 4 == 3:
        X = X[rng.integers(0, n_rows, n_rows)]  # repeated rows
    y = [rng.poisson(0.7, n_rows), rng.normal(size=n_rows), rng.poisson(2, n_rows) * (rng.random(n_rows) < 0.3)]
    weights = [np.ones(n_rows), 10.0 ** rng.uniform(-6, 0, n_rows), 1 + rng.integers(0, 4, n_rows) * (X[:, 0] > 0)]
    quantile, degree = rng.choice([0.05, 0.25, 0.5, 0.9]), int(rng.integers(0, 4))
    return X * 1.0, y[seed // 4 % 3] * 1.0, weights[seed // 12 % 3], quantile, degree


COUNTS = [2, 0, 1, 1, 2, 0, 0, 1, 0, 0, 1, 0, 0], [-1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0]
LIGHT = [3, 2, 2, 2, 2], [-0.96, -1.16, -0.49, 0.55, -0.06], [1.7e-5, 0.016, 0.062, 8.3e-5, 0.063]


def cauchy():
    rng = np.random.default_rng(17)
    X = rng.uniform(-1, 1, (40, 3))
    return X, X[:, 0] + rng.standard_cauchy(40)


def dependent_columns():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 2))
    return np.column_stack([X, X.sum(axis=1)]), rng.poisson(1.5, 60) * 1.0


def zero_inflated():
    rng = np.random.default_rng(5)
    X = rng.integers(0, 6, (800, 2)) * 1.0
    return X, rng.poisson(np.exp(0.4 * X[:, 0] - 1)) * (rng.random(800) < 0.4) * 1.0


PROGRAMS = {
    "counts": (*COUNTS, None, 2, 0.9),
    "light row alone at a level": (*LIGHT, 1, 0.9),
    "Cauchy noise": (*cauchy(), None, 3, 0.05),
    "dependent columns": (*dependent_columns(), None, 2, 0.3),
    "zero-inflated": (*zero_inflated(), None, 3, 0.8),
    "ages as weights": (*zero_inflated(), np.random.default_rng(0).integers(18, 90, 800), 2, 0.5),
    "weights of 0": (*zero_inflated(), np.arange(800) % 3, 2, 0.9),
    "rounded to a grid": (np.linspace(0, 1, 90), np.round(np.sin(9 * np.linspace(0, 1, 90)), 1), None, 9, 0.5),
    "a constant": (np.zeros(7), np.arange(7.0) ** 2, [1, 1e-6, 3, 1, 1e-3, 1, 2], 0, 0.7),
}


@without_warning
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("moved", [False, True], ids=["", "moved"])
def test_quantiles_are_those_of_linear_programming(name, moved):
    X, y, weights, degree, quantile = PROGRAMS[name]
    X, y = np.asarray(X, dtype=float).reshape(len(y), -1), np.asarray(y, dtype=float)
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    if moved:
        X, y = 1e3 * X + 2**20, 2.0**-30 * y + 2.0**-10
    least = least_pinball(X, y, degree, quantile, weights)
    model = TorchPolynomialRegressor(degree, loss="quantile", quantile=quantile).fit(X, y, weights)
    assert pinball(y, model.predict(X), quantile, weights) == pytest.approx(least, rel=1e-9)
    assert 0 <= model.dual_gap_ <= 1e-10 * least
    assert model.loss_curve_[-1] == pytest.approx(least, rel=1e-9)


@pytest.mark.slow
@without_warning
def test_small_data_with_ties_and_weights_are_solved():
    for seed in range(72):
        X, y, weights, quantile, degree = tied_data(seed)
        least = least_pinball(X, y, degree, quantile, weights)
        model = TorchPolynomialRegressor(degree, loss="quantile", quantile=quantile).fit(X, y, weights)
        rounding = 1e-14 * max(1.0, np.abs(y).max())
        assert pinball(y, model.predict(X), quantile, weights) <= least * (1 + 1e-9) + rounding, seed
        assert model.dual_gap_ <= 1e-9 * least + rounding, seed


@pytest.mark.slow
@without_warning
@pytest.mark.parametrize("basis", ["orthonormal", "chebyshev", "monomial"])
@pytest.mark.parametrize("budget", [0, 2**28])
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_wherever_features_are(basis, budget, device, monkeypatch):
    monkeypatch.setattr(torchpoly._train.loss_rows, "_MAX_KEPT_BYTES", budget)
    X, y = zero_inflated()
    X, y = X[:200], y[:200]
    model = TorchPolynomialRegressor(2, loss="absolute_error", basis=basis, device=device).fit(X, y)
    least = 2 * least_pinball(X, y, 2, 0.5, np.ones(200))
    assert model.loss_curve_[-1] == pytest.approx(least, rel=1e-9)
    assert model.dual_gap_ <= 1e-10 * least


STACKLOSS = """
80 27 89 42  80 27 88 37  75 25 90 37  62 24 87 28  62 22 87 18  62 23 87 18  62 24 93 19  62 24 93 20  58 23 87 15
58 18 80 14  58 18 89 14  58 17 88 13  58 18 82 11  58 19 93 12  50 18 89 8  50 18 86 7  50 19 72 8  50 19 79 8
50 20 80 9  56 20 82 15  70 20 91 15"""


def test_published_coefficients_come_out_to_ten_digits():
    """The median regression of R's quantreg on Brownlee's stack loss data."""
    data = np.array(STACKLOSS.split(), dtype=float).reshape(21, 4)
    for loss in ("absolute_error", "quantile"):
        model = TorchPolynomialRegressor(1, loss=loss).fit(data[:, :3], data[:, 3])
        published = [-39.68985507, 0.83188406, 0.57391304, -0.06086957]
        np.testing.assert_allclose([model.intercept_, *model.term_coef_], published, rtol=0, atol=5.01e-9)


def test_a_vertex_is_met_to_rounding():
    model = TorchPolynomialRegressor(1, loss="quantile", quantile=0.4)
    model.fit([[0], [1], [2], [4], [5]], [1, 13, 15, 14, 16])
    assert [model.intercept_, *model.term_coef_] == pytest.approx([6, 2], rel=1e-13)


def test_one_of_several_optima():
    model = TorchPolynomialRegressor(0, loss="absolute_error").fit(np.zeros((4, 1)), [0, 1, 2, 10])
    assert 1 <= model.intercept_ <= 2
    assert model.loss_curve_[-1] == pytest.approx(2.75)
    assert model.dual_gap_ < 1e-15


def test_more_terms_than_rows_leave_no_loss(rng):
    X, y = rng.normal(size=(15, 4)), rng.normal(size=15)
    model = TorchPolynomialRegressor(loss="quantile", quantile=0.2).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-12)
    assert model.dual_gap_ < 1e-12
    one = TorchPolynomialRegressor(loss="absolute_error").fit(X[:1], y[:1])
    assert one.predict(X[:1]) == pytest.approx(y[:1], rel=1e-15)


@without_warning
def test_several_targets_and_warm_starts():
    X, y = zero_inflated()
    Y = np.column_stack([y, 1e6 * X[:, 1] + y**2])
    settings = {"loss": "quantile", "quantile": 0.7}
    both = TorchPolynomialRegressor(2, **settings).fit(X, Y)
    assert both.dual_gap_.shape == (2,)
    warm = TorchPolynomialRegressor(1, warm_start=True, **settings).fit(X[::2], 1e4 + 1e3 * Y[::2])
    warm.set_params(degree=2).fit(X, Y)
    for target in range(2):
        alone = TorchPolynomialRegressor(2, **settings).fit(X, Y[:, target])
        for model in (both, warm):
            assert pinball(Y[:, target], model.predict(X)[:, target], 0.7) == pytest.approx(alone.loss_curve_[-1])
            assert model.dual_gap_[target] <= 1e-10 * alone.loss_curve_[-1]


@pytest.mark.parametrize(
    ("settings", "tightness"),
    [({"n_iter": 3}, 30), ({"optimizer": "adam"}, 200), ({"optimizer": "adam", "n_iter": 10}, 30)],
    ids=str,
)
def test_the_dual_gap_bounds_what_training_leaves(settings, tightness):
    rng = np.random.default_rng(2)
    X = rng.uniform(-1, 1, (3000, 2))
    y = np.sin(3 * X[:, 0]) + 0.3 * rng.standard_t(2, 3000)
    least = least_pinball(X, y, 3, 0.2, np.ones(3000))
    with pytest.warns(ConvergenceWarning, match=r"The loss is at most .* above the least possible \(dual_gap_\)"):
        model = TorchPolynomialRegressor(loss="quantile", quantile=0.2, **settings).fit(X, y)
    excess = pinball(y, model.predict(X), 0.2) - least
    assert 0 < excess <= model.dual_gap_ <= tightness * excess


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_dual_gap_of_first_order_optimizers_on_ties():
    for seed in range(36):
        X, y, weights, quantile, degree = tied_data(seed)
        least = least_pinball(X, y, degree, quantile, weights)
        model = TorchPolynomialRegressor(degree, loss="quantile", quantile=quantile, optimizer="adam", n_iter=20)
        excess = model.fit(X, y, weights).loss_curve_[-1] - least
        assert excess <= model.dual_gap_ + 1e-14, seed
        assert model.dual_gap_ <= model.loss_curve_[-1] * (1 + 1e-12), seed


def test_only_linear_programs_have_a_dual_gap(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(loss="absolute_error").fit(X, Y[:, 0])
    assert isinstance(model.dual_gap_, float)
    for other in ({"alpha": 0.1}, {"loss": "huber"}, {"loss": "squared_error"}):
        assert not hasattr(model.set_params(**other).fit(X, Y[:, 0]), "dual_gap_")


def hubers_loss(coefficients, features, y, weights, epsilon):
    """The loss at its best scale, and its gradient."""
    residuals, shares = y - features @ coefficients, weights / weights.sum()
    sizes, scale = np.abs(residuals), np.sqrt(shares @ residuals**2)
    while True:
        inside = sizes <= epsilon * scale
        falling = 1 - epsilon**2 * shares[~inside].sum()
        better = np.sqrt(shares[inside] @ residuals[inside] ** 2 / falling) if falling > 0 else scale
        if better >= scale * (1 - 1e-14) or better < 1e-9:
            break
        scale = better
    ratios = np.minimum(sizes / scale, epsilon)
    value = scale * (1 + shares @ (ratios * (2 * sizes / scale - ratios)))
    return value, -features.T @ (shares * 2 * ratios * np.sign(residuals))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "seeds"), [(1.01, (64, 67, 90, 109)), (1.1, (31, 41, 74, 98)), (1.35, (60, 74, 115, 135))]
)
def test_hubers_loss_with_weights_over_six_decades(epsilon, seeds):
    """Few rows, of which the light ones may alone determine a direction."""
    for seed in seeds:
        X, y, _, _, degree = tied_data(seed)
        rng = np.random.default_rng(seed)
        degree, y, weights = degree + 2, y + 0.1 * rng.normal(size=len(y)), 10.0 ** rng.uniform(-6, 0, len(y))
        model = TorchPolynomialRegressor(degree, loss="huber", epsilon=epsilon).fit(X, y, weights)
        features = orthonormal(X, degree, weights)
        fitted = features.T @ (weights / weights.sum() * model.predict(X))
        arguments = features, y, weights, epsilon
        least = min(
            minimize(hubers_loss, start, arguments, jac=True, method="BFGS", options={"gtol": 1e-12}).fun
            for start in (fitted, 0.9 * fitted + 0.05)
        )
        assert model.loss_curve_[-1] <= least * (1 + 2e-5) + 1e-7, seed


LINE = np.arange(10.0)[:, None], np.array([0, 1.1, 1.9, 3, 4.2, 5, 5.9, 7.1, 8, 100])


@without_warning
@pytest.mark.parametrize(
    "before",
    [
        lambda X, y: (X, 1e6 + y, 1),
        lambda X, y: (X, 1e9 * y, 1),
        lambda X, y: (X, -1e-6 * y, 1),
        lambda X, y: (X + 3.0, y[::-1] * 50, 1),
        lambda X, y: (X[3:], y[3:], 0),
        lambda X, y: (X * 1e3, y, 4),
    ],
    ids=["offset", "larger units", "smaller units", "window", "degree 0", "degree 4"],
)
def test_hubers_warm_start_ends_where_a_cold_one_does(before):
    X, y = LINE
    first_X, first_y, degree = before(X, y)
    cold = TorchPolynomialRegressor(1, loss="huber").fit(X, y)
    assert cold.term_coef_ == pytest.approx([1.0108], rel=1e-3)
    model = TorchPolynomialRegressor(degree, loss="huber", warm_start=True).fit(first_X, first_y)
    model.set_params(degree=1).fit(X, y)
    assert model.scale_ == pytest.approx(cold.scale_, rel=1e-6)
    np.testing.assert_allclose(model.predict(X), cold.predict(X), atol=1e-6 * cold.scale_)


# By the power of the mean to which the variance is proportional.
DEVIANCES = {
    1.0: torch.nn.PoissonNLLLoss(),
    1.5: lambda e, y: 2 * y * torch.exp(-e / 2) + 2 * torch.exp(e / 2),
    2.0: lambda e, y: y * torch.exp(-e) + e,
    3.0: lambda e, y: y * torch.exp(-2 * e) / 2 - torch.exp(-e),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inner solver of NewtonCholeskySolver")
@pytest.mark.parametrize("power", DEVIANCES)
@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 1e6, 1e10])
def test_logarithmic_links_are_generalized_linear_models(power, size):
    rng = np.random.default_rng(1)
    X = rng.uniform(-1, 1, (300, 2))
    y = rng.gamma(2, np.exp(X[:, 0] - X[:, 1] ** 2))
    features = PolynomialFeatures(2, include_bias=False).fit_transform(X)
    reference = TweedieRegressor(power=power, alpha=0, link="log", tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    expected = reference.fit(features, y).predict(features)
    model = TorchPolynomialRegressor(2, loss=DEVIANCES[power]).fit(X, size * y)
    np.testing.assert_allclose(np.exp(model.predict(X)) / size, expected, rtol=1e-5)
    assert model.n_iter_ < 100
    again = TorchPolynomialRegressor(2, loss=DEVIANCES[power], warm_start=True).fit(X, y).fit(X, size * y)
    np.testing.assert_allclose(np.exp(again.predict(X)) / size, expected, rtol=1e-5)


@without_warning
def test_targets_of_all_sizes_under_one_link():
    x = np.arange(8.0)[:, None]
    y = np.array([1, 2, 3, 5, 7, 9, 12, 20.0])
    offsets = np.log([1.0, 1e9])
    for loss in (torch.nn.PoissonNLLLoss(), torch.nn.PoissonNLLLoss(reduction="none")):
        model = TorchPolynomialRegressor(1, loss=loss).fit(x, y[:, None] * np.exp(offsets))
        np.testing.assert_allclose(model.predict(x)[:, 1] - offsets[1], model.predict(x)[:, 0], atol=1e-5)


@without_warning
def test_a_loss_that_knows_its_rows():
    exposure = torch.linspace(0.5, 2.0, 2000, dtype=torch.float64)
    rng = np.random.default_rng(4)
    X = rng.uniform(-1, 1, (2000, 1))
    counts = rng.poisson(1e5 * exposure.numpy() * np.exp(X[:, 0]))
    model = TorchPolynomialRegressor(1, loss=lambda e, y: exposure * torch.exp(e) - y * e).fit(X, counts)
    assert [model.intercept_, *model.term_coef_] == pytest.approx([np.log(1e5), 1.0], rel=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "rprop", "nadam"])
@pytest.mark.parametrize("loss", ["squared_error", "huber", lambda p, t: (p - t) ** 2], ids=["squared", "huber", "own"])
def test_an_offset_of_y_changes_no_training(optimizer, loss):
    rng = np.random.default_rng(0)
    balanced = np.stack(np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1]), axis=-1).reshape(-1, 2)
    for X in (rng.normal(size=(200, 2)), np.tile(balanced, (4, 1))):
        y = np.sin(X[:, 0])
        plain = TorchPolynomialRegressor(2, optimizer=optimizer, n_iter=5, loss=loss).fit(X, y)
        for offset in (1e4, 1e8):
            moved = TorchPolynomialRegressor(2, optimizer=optimizer, n_iter=5, loss=loss).fit(X, y + offset)
            np.testing.assert_allclose(moved.predict(X) - offset, plain.predict(X), atol=1e-15 * offset + 1e-10)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "n_iter": 5},
        {"optimizer": "rprop", "n_iter": 5},
        {"loss": "quantile", "quantile": 0.8},
        {"loss": "absolute_error", "optimizer": "adam", "n_iter": 5},
    ],
    ids=str,
)
def test_both_searches_agree_beside_an_offset(settings):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = np.sin(X[:, 0]) + 1e4
    scores = [
        search(TorchPolynomialRegressor(**settings), {"degree": [1, 2]}, cv=4).fit(X, y).cv_results_["mean_test_score"]
        for search in (GridSearchCV, PolynomialGridSearchCV)
    ]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("decades", [0, 1, 3, 5])
def test_gamma_regressions_with_weights_of_decades(decades):
    """Beside scikit-learn's, where most rows are flat at the constant from which training starts."""
    for seed in range(15):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(12, 1))
        y, weights = np.exp(3 * x[:, 0]) * rng.gamma(2, 0.5, 12), 10 ** rng.uniform(-decades, 0, 12)
        model = TorchPolynomialRegressor(2, loss=lambda p, t: t * torch.exp(-p) + p).fit(x, y, weights)
        powers = np.column_stack([x, x**2])
        reference = GammaRegressor(alpha=0, solver="newton-cholesky", tol=1e-10).fit(powers, y, weights)
        np.testing.assert_allclose(np.exp(model.predict(x)), reference.predict(powers), rtol=1e-4)
