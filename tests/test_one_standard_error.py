"""one_standard_error: which candidate it chooses, in results made by hand and in searches."""

import pickle
import re
from io import BytesIO
from zipfile import ZipFile

import cloudpickle
import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import skops.io
from scipy.stats import uniform
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401, HalvingGridSearchCV needs it
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    ParameterGrid,
    RandomizedSearchCV,
    ShuffleSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchpoly import (
    LossCurveDisplay,
    PolynomialFitDisplay,
    PolynomialGridSearchCV,
    TorchPolynomialRegressor,
    one_standard_error,
)

GRID = {"degree": [1, 2, 3, 4, 5, 6], "alpha": [0.0, 1e-4, 1e-2]}
STEP = "torchpolynomialregressor__"


@pytest.fixture
def noisy(rng):
    """A noisy cubic, for which the best mean score is not that of the lowest degree within one standard error."""
    X = rng.uniform(-1, 1, (200, 1))
    return X, X[:, 0] - 2 * X[:, 0] ** 3 + 0.3 * rng.normal(size=200)


def results(params, means, stds=None, n_splits=4, metric="score"):
    """Return cv_results_ as a search makes them, but for the scores of the splits."""
    stds = np.zeros(len(means)) if stds is None else stds
    splits = {f"split{split}_test_{metric}": np.asarray(means, float) for split in range(n_splits)}
    scores = {f"mean_test_{metric}": np.asarray(means, float), f"std_test_{metric}": np.asarray(stds, float)}
    return {"params": list(params)} | splits | scores


def brute_force(cv_results, n_splits, prefix="", metric="score"):
    """Return the choice by sorting all candidates."""
    means, stds = cv_results[f"mean_test_{metric}"], cv_results[f"std_test_{metric}"]
    least = np.nanmax(means) - stds[np.nanargmax(means)] / np.sqrt(n_splits)
    columns = []
    for name, missing, sign in [("degree", np.inf, 1), ("interaction_only", False, -1), ("alpha", 0.0, -1)]:
        column = cv_results.get(f"param_{prefix}{name}", np.ma.masked_all(len(means), dtype=object))
        columns.append([sign * (missing if value is np.ma.masked else value) for value in column])
    rows = [row for row in zip(*columns, range(len(means)), strict=True) if means[row[-1]] >= least]
    return sorted(rows)[0][-1]


def degrees(*values):
    return [{"degree": value} for value in values]


def test_random_results(rng):
    grid = ParameterGrid({"degree": [1, 2, 3], "interaction_only": [False, True], "alpha": [0, 1e-3, 0.1, 1]})
    names = ["degree", "interaction_only", "alpha"]
    for _ in range(300):
        params = rng.permutation(list(grid))[: rng.integers(1, len(grid) + 1)]
        # Few different scores, so that there are ties.
        means, stds = rng.integers(0, 10, len(params)) / 10, rng.uniform(0, 1, len(params))
        if len(params) > 1:
            means[rng.integers(len(params) - 1)] = np.nan
        n_splits = rng.integers(1, 30)
        made = results(params, means, stds, n_splits)
        made |= {f"param_{name}": np.array([parameters[name] for parameters in params]) for name in names}
        assert one_standard_error()(made) == brute_force(made, n_splits)


def test_the_bound_is_one_standard_error_of_the_best():
    means, stds = [0.8 - 1e-9, 0.8 + 1e-9, 0.9], [9.0, 9.0, 0.2]
    # The square root of 4 splits halves 0.2.
    assert one_standard_error()(results(degrees(1, 2, 3), means, stds)) == 1
    assert one_standard_error()(results(degrees(1, 2, 3), means, stds, n_splits=3)) == 0
    assert one_standard_error()(results(degrees(1, 2, 3), [0.875, 0.875, 1.0], [9.0, 9.0, 0.25])) == 0


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (degrees(3, 2, 2), 1),
        ([{"degree": 2, "alpha": alpha} for alpha in [0.1, 1, 0]], 1),
        ([{"degree": degree, "alpha": alpha} for degree, alpha in [(2, 1.0), (1, 0.0), (1, 0.1), (3, 9.0)]], 2),
        ([{"degree": 2, "interaction_only": only, "alpha": 1 - only} for only in [False, True]], 1),
        ([{"degree": degree, "interaction_only": degree == 3} for degree in [3, 2]], 1),
        ([{"interaction_only": only} for only in [False, np.True_, True]], 1),
        ([{"alpha": alpha} for alpha in [0.1, np.float32(1)]], 1),
        ([{"degree": np.int64(2)}, {"degree": 1.0}], 1),
        # What a candidate does not have.
        ([{"alpha": 1.0}, {"degree": 20}], 1),
        ([{"degree": 2}, {"degree": 2, "alpha": 0.1}, {"degree": 2, "alpha": 0}], 1),
        ([{"degree": 2}, {"degree": 2, "alpha": 0.0}], 0),
        ([{"degree": 2}, {"degree": 2, "interaction_only": False}, {"degree": 2, "interaction_only": True}], 2),
        # Strings.
        (degrees("loo", 20), 1),
        ([{"alpha": "loo"}, {"alpha": 1e-9}], 1),
        ([{"alpha": "loo"}, {"alpha": 0.0}], 0),
    ],
)
def test_order_of_equally_good_candidates(params, expected):
    assert one_standard_error()(results(params, np.ones(len(params)))) == expected


def test_scores_that_are_not_finite():
    choose = one_standard_error()
    assert choose(results(degrees(1, 3, 2), [np.nan, 1.0, 1.0])) == 2
    assert choose(results(degrees(3, 1, 2), [np.nan] * 3)) == 0
    assert choose(results(degrees(1, 2, 3), [0.9, 1.0, 1.0], [np.nan] * 3)) == 1
    assert choose(results(degrees(1, 3, 2), [-np.inf, 0.5, 0.5], [np.nan, 0.1, 0.1])) == 2


@pytest.mark.parametrize("metric", ["r2", "neg.mean+error", "score"])
def test_splits_of_another_metric_do_not_count(metric):
    made = results(degrees(1, 2), [0.85, 1.0], [9.0, 0.4], n_splits=4, metric=metric)
    others = results(degrees(1, 2), [1.0, 0.0], n_splits=30, metric=f"{metric}_2")
    trains = {f"split{split}_train_{metric}": np.ones(2) for split in range(30)}
    assert one_standard_error(scoring=metric)(others | made | trains) == 0


@pytest.mark.parametrize("kind", [GridSearchCV, PolynomialGridSearchCV])
@pytest.mark.parametrize("cv", [3, KFold(10, shuffle=True, random_state=0), ShuffleSplit(1, random_state=0)], ids=str)
def test_searches(kind, cv, noisy):
    search = kind(TorchPolynomialRegressor(), GRID, cv=cv, refit=one_standard_error()).fit(*noisy)
    assert search.best_index_ == brute_force(search.cv_results_, search.n_splits_)
    assert search.best_params_ == search.cv_results_["params"][search.best_index_]
    assert search.best_estimator_.degree == search.best_params_["degree"]
    assert not hasattr(search, "best_score_")
    np.testing.assert_array_equal(search.predict(noisy[0]), search.best_estimator_.predict(noisy[0]))
    assert search.score(*noisy) == search.best_estimator_.score(*noisy)


def test_it_chooses_another_candidate_than_the_best_score(noisy):
    chosen = [
        PolynomialGridSearchCV(TorchPolynomialRegressor(), GRID, refit=refit).fit(*noisy).best_params_
        for refit in [True, one_standard_error()]
    ]
    assert chosen[0]["degree"] > chosen[1]["degree"] == 3


@pytest.mark.parametrize("kind", [GridSearchCV, PolynomialGridSearchCV])
def test_pipelines(kind, noisy):
    grid = {"standardscaler__with_mean": [True, False]} | {STEP + name: values for name, values in GRID.items()}
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor())
    search = kind(pipeline, grid, cv=3, refit=one_standard_error(STEP)).fit(*noisy)
    assert search.best_index_ == brute_force(search.cv_results_, 3, STEP)
    assert search.best_params_[f"{STEP}degree"] == 3


@pytest.mark.parametrize("kind", [GridSearchCV, PolynomialGridSearchCV])
def test_several_metrics(kind, noisy):
    metrics = ["r2", "neg_mean_squared_error", "neg_max_error"]
    search = kind(TorchPolynomialRegressor(), GRID, cv=4, scoring=metrics).set_params(
        refit=one_standard_error(scoring="neg_max_error")
    )
    search.fit(*noisy)
    for metric in metrics:
        index = one_standard_error(scoring=metric)(search.cv_results_)
        assert index == brute_force(search.cv_results_, 4, metric=metric)
        assert (index == search.best_index_) or metric != "neg_max_error"


@pytest.mark.parametrize("kind", [GridSearchCV, PolynomialGridSearchCV])
def test_lists_of_grids(kind, noisy):
    grids = [{"alpha": [1e-3]}, {"degree": [2, 3, 5]}, {"degree": [3, 4], "alpha": [1e-3, 1e-2]}]
    search = kind(TorchPolynomialRegressor(), grids, refit=one_standard_error()).fit(*noisy)
    assert np.ma.is_masked(search.cv_results_["param_degree"])
    assert search.best_index_ == brute_force(search.cv_results_, 5)
    assert search.best_params_ == {"degree": 3, "alpha": 1e-3}


def test_random_candidates(noisy):
    distributions = {"degree": range(1, 9), "alpha": uniform(0, 1e-3)}
    search = RandomizedSearchCV(
        TorchPolynomialRegressor(), distributions, n_iter=15, cv=3, refit=one_standard_error(), random_state=0
    )
    search.fit(*noisy)
    assert search.best_index_ == brute_force(search.cv_results_, 3)


def test_halving(noisy):
    X, y = noisy
    called = []
    search = HalvingGridSearchCV(
        TorchPolynomialRegressor(),
        {"degree": [1, 3, 4, 5, 6, 7]},
        cv=KFold(3, shuffle=True, random_state=0),
        factor=2,
        random_state=0,
        refit=called.append,
    ).fit(X, y)
    # If scikit-learn comes to call it, the documentation must change.
    assert called == []
    last = np.flatnonzero(search.cv_results_["iter"] == search.n_iterations_ - 1)
    of_last = {
        name: values[last]
        for name, values in search.cv_results_.items()
        if name.startswith(("mean_test", "std_test", "param_"))
    }
    assert one_standard_error()(search.cv_results_) == last[brute_force(of_last, 3)]
    nothing = search.cv_results_ | {"mean_test_score": np.full(len(search.cv_results_["iter"]), np.nan)}
    assert one_standard_error()(nothing) == last[0]


def test_displays(noisy):
    X, y = noisy
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2, 3]}, refit=one_standard_error())
    search.fit(X, y)
    drawn = PolynomialFitDisplay.from_estimator(search, X, y, residuals=True)
    np.testing.assert_array_equal(drawn.predictions, search.predict(X))
    np.testing.assert_array_equal(
        LossCurveDisplay.from_estimator(search).loss_curve, search.best_estimator_.loss_curve_
    )
    plt.close("all")


def test_copies(noisy):
    X, y = noisy
    refit = one_standard_error(scoring="r2")
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), GRID, scoring=["r2"], refit=refit).fit(X, y)
    file = BytesIO()
    joblib.dump(search, file)
    file.seek(0)
    saved = skops.io.dumps(search)
    copies = [
        pickle.loads(pickle.dumps(search)),
        pickle.loads(cloudpickle.dumps(search)),
        joblib.load(file),
        skops.io.loads(saved, trusted=skops.io.get_untrusted_types(data=saved)),
        clone(search).fit(X, y),
    ]
    for copied in copies:
        assert repr(copied.refit) == "one_standard_error(param_prefix='', scoring='r2')"
        assert copied.refit(search.cv_results_) == search.best_index_
        np.testing.assert_array_equal(copied.predict(X), search.predict(X))


@pytest.mark.parametrize("save", [pickle.dumps, cloudpickle.dumps, skops.io.dumps])
def test_files_name_nothing_private(save, noisy):
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, refit=one_standard_error())
    saved = save(search.fit(*noisy))
    if save is skops.io.dumps:
        with ZipFile(BytesIO(saved)) as archive:
            saved = archive.read("schema.json")
    public = ["TorchPolynomialRegressor", "PolynomialGridSearchCV", "one_standard_error"]
    assert set(re.findall(rb"torchpoly[.\w]*", saved)) <= {
        b"torchpoly",
        *(f"torchpoly.{name}".encode() for name in public),
    }
    assert b"one_standard_error" in saved


def test_processes(noisy):
    search = GridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 3, 5]}, n_jobs=2, refit=one_standard_error())
    with joblib.parallel_backend("threading"):
        assert search.fit(*noisy).best_params_ == {"degree": 3}


@pytest.mark.parametrize(("prefix", "scoring"), [("", None), (STEP, "r2")])
def test_repr_makes_it_again(prefix, scoring):
    again = eval(repr(one_standard_error(prefix, scoring)))
    assert (again.param_prefix, again.scoring) == (prefix, scoring)


def test_a_prefix_of_no_parameter(noisy):
    search = GridSearchCV(
        make_pipeline(TorchPolynomialRegressor()), {f"{STEP}degree": [1, 2]}, refit=one_standard_error()
    )
    with pytest.raises(
        ValueError, match=rf"'param_prefix' .*got '', .*It has \['param_{STEP}degree'\]\. Set 'param_prefix'.*'{STEP}'"
    ):
        search.fit(*noisy)
    with pytest.raises(ValueError, match=r"got 'model__', .*'param_model__degree'.*It has \['param_lr', 'param_tol'\]"):
        one_standard_error("model__")(results([{"lr": 1.0}, {"tol": 0.1}], [1.0, 1.0]))


def test_a_metric_that_the_search_does_not_have(noisy):
    made = results(degrees(1), [1.0], metric="r2") | results(degrees(1), [1.0], metric="max_error")
    with pytest.raises(ValueError, match=r"'scoring' .*got None, .*\['r2', 'max_error'\]"):
        one_standard_error()(made)
    with pytest.raises(ValueError, match=r"'scoring' .*got 'mse', .*\['r2', 'max_error'\]"):
        one_standard_error(scoring="mse")(made)
    with pytest.raises(ValueError, match=r"'scoring' .*got 'r2', .*\['score'\]"):
        GridSearchCV(Ridge(), {"alpha": [1.0]}, refit=one_standard_error(scoring="r2")).fit(*noisy)


def test_a_search_without_the_parentheses(noisy):
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, refit=one_standard_error)
    with pytest.raises(TypeError, match=r"refit=one_standard_error\(\), with parentheses"):
        search.fit(*noisy)
