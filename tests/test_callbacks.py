"""scikit-learn's callbacks."""

import numpy as np
import pytest
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor


class Recorder:
    """Notes its hooks; does something at the end of a task."""

    max_propagation_depth = None

    def __init__(self, at_end=lambda context: None):
        self.events = []
        self.at_end = at_end

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context):
        self.events.append(f"end {context.task_name}")
        return self.at_end(context)


def fail_at_end_of(task):
    def fail(context):
        if context.task_name == task:
            raise RuntimeError("full disk")

    return fail


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "n_iter": 12, "tol": None},
        {"loss": "huber"},
        {"loss": "quantile"},
        {"batch_size": 50, "optimizer": "sgd", "n_iter": 7, "tol": None},
    ],
    ids=str,
)
def test_scoring_monitor_logs_each_iteration(settings, surface):
    X, Y = surface
    weights = np.linspace(0, 1, len(X))
    monitor = ScoringMonitor(scoring="r2")
    model = TorchPolynomialRegressor(**settings).set_callbacks(monitor).fit(X, Y[:, 0], weights)
    logged = monitor.get_logs().data
    assert len(logged) == model.n_iter_
    assert logged[-1]["r2"] == pytest.approx(model.score(X, Y[:, 0], weights), abs=1e-12)
    alone = TorchPolynomialRegressor(**settings).fit(X, Y[:, 0], weights)
    np.testing.assert_array_equal(alone.predict(X), model.predict(X))


def test_tasks_in_their_order(surface):
    X, Y = surface
    recorder = Recorder()
    model = TorchPolynomialRegressor(optimizer="adam", n_iter=2, tol=None).set_callbacks(recorder).fit(X, Y)
    assert recorder.events == [
        *["setup", "begin fit", "begin read", "begin chunk", "end chunk", "end read", "begin train"],
        *["begin iteration", "end iteration"] * 2,
        *["end train", "end fit", "teardown"],
    ]
    assert model.n_iter_ == 2


def test_a_long_pass_over_the_rows_shows_its_chunks(rng):
    X = rng.uniform(-1, 1, (100_000, 1))
    recorder = Recorder()
    TorchPolynomialRegressor(2).set_callbacks(recorder).fit(X, X[:, 0])
    assert recorder.events.count("end chunk") == 7  # of 2**14 rows at most


@pytest.mark.filterwarnings("error")
def test_a_callback_stops_training(surface):
    X, Y = surface
    fifth = Recorder(lambda context: context.task_name == "iteration" and context.task_id == 4)
    model = TorchPolynomialRegressor(optimizer="adam").set_callbacks(fifth).fit(X, Y)
    assert model.n_iter_ == len(model.loss_curve_) == 5
    assert fifth.events[-1] == "teardown"


@pytest.mark.parametrize("task", ["chunk", "iteration", "train", "fit"])
def test_a_callback_that_raises_leaves_the_estimator_as_it_was(task, surface):
    X, Y = surface
    failing = Recorder(fail_at_end_of(task))
    model = TorchPolynomialRegressor(2).fit(X, Y)
    expected, before = model.predict(X), set(vars(model))
    with pytest.raises(RuntimeError, match="full disk"):
        model.set_params(degree=3).set_callbacks(failing).fit(X[:, :1], Y)
    assert failing.events[-1] == "teardown"
    assert set(vars(model)) == before | {"_skl_callbacks"}
    np.testing.assert_array_equal(model.predict(X), expected)
    fresh = TorchPolynomialRegressor().set_callbacks(Recorder(fail_at_end_of(task)))
    with pytest.raises(RuntimeError, match="full disk"):
        fresh.fit(X, Y)
    assert not hasattr(fresh, "term_coef_")


@pytest.mark.parametrize("error", [RuntimeError("full disk"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("method", ["setup", "teardown", "on_fit_task_begin", "on_fit_task_end"])
def test_any_method_of_a_callback_can_raise(method, error, surface):
    X, Y = surface
    failing = Recorder()

    def fail(*args, **kwargs):
        raise error

    setattr(failing, method, fail)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=2)
    for estimator in (TorchPolynomialRegressor(2), search):
        estimator.fit(X, Y).set_callbacks(failing)
        before = vars(estimator).copy()
        with pytest.raises(type(error)):
            estimator.fit(X[:, :1], Y)
        assert vars(estimator) == before


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_progress_bar_in_a_search(n_jobs, surface, capsys):
    X, Y = surface
    grid = {"degree": [1, 3], "loss": ["squared_error", "huber"]}
    search = GridSearchCV(TorchPolynomialRegressor(), grid, cv=2, n_jobs=n_jobs)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, Y[:, 0])
    printed = capsys.readouterr().out
    assert "TorchPolynomialRegressor - train" in printed
    assert search.best_params_["degree"] == 3
    TorchPolynomialRegressor(2).set_callbacks(ProgressBar()).fit(X, Y)
    assert "100%" in capsys.readouterr().out


@pytest.mark.parametrize("estimator", [TorchPolynomialRegressor(), make_pipeline(StandardScaler(), Ridge())], ids=str)
def test_a_search_tells_of_each_candidate(estimator, surface, capsys):
    X, Y = surface
    name = "degree" if isinstance(estimator, TorchPolynomialRegressor) else "ridge__alpha"
    told = []
    for kind in (PolynomialGridSearchCV, GridSearchCV):
        recorder = Recorder()
        recorder.max_propagation_depth = 0
        kind(estimator, {name: [1, 2]}, cv=3).set_callbacks(recorder).fit(X, Y[:, 0])
        told.append(sorted(recorder.events))
    assert told[0] == told[1]
    assert told[0].count("end candidate-split-evaluation") == 6
    PolynomialGridSearchCV(estimator, {name: [1, 2]}, cv=3).set_callbacks(ProgressBar()).fit(X, Y[:, 0])
    assert "PolynomialGridSearchCV - search" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["candidate-split-evaluation", "search", "fit"])
def test_a_callback_that_raises_ends_a_search(task, surface):
    X, Y = surface
    failing = Recorder(fail_at_end_of(task))
    failing.max_propagation_depth = 0
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}).set_callbacks(failing)
    with pytest.raises(RuntimeError, match="full disk"):
        search.fit(X, Y)
    assert failing.events[-1] == "teardown"
