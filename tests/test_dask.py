"""Dask collections: the model of one fit in memory, from partitions that stay where they are."""

import os
from functools import partial

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import joblib
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster, SchedulerPlugin
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

NAMES = ["temperature", "pressure", "flow"]


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def frame(surface):
    X, Y = surface
    return pd.DataFrame(np.hstack([X, Y]), columns=[*NAMES, "yield", "cost"])


def assert_same_polynomial(model, reference):
    scale = np.abs(reference.term_coef_).max(axis=-1, keepdims=True)
    assert_allclose(model.term_coef_ / scale, reference.term_coef_ / scale, rtol=0, atol=1e-9)
    assert_allclose(model.term_coef_, reference.term_coef_, rtol=1e-9)
    assert_allclose(model.intercept_, reference.intercept_, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("single", [False, True])
def test_arrays_on_a_cluster(cluster, surface, rng, single, weighted):
    X, y = surface[0], surface[1][:, 0] if single else surface[1]
    weights = rng.integers(0, 4, len(X)).astype(float) if weighted else None
    lazy_X, lazy_y = da.from_array(X, chunks=(70, 2)), da.from_array(y, chunks=50)
    lazy_weights = da.from_array(weights, chunks=110) if weighted else None

    reference = TorchPolynomialRegressor().fit(X, y, weights)
    model = TorchPolynomialRegressor().fit(lazy_X, lazy_y, lazy_weights)

    assert_same_polynomial(model, reference)
    assert_allclose(model.loss_curve_[-1], reference.loss_curve_[-1], rtol=1e-9)
    assert_allclose(model.score(lazy_X, lazy_y, lazy_weights), reference.score(X, y, weights), rtol=1e-12)
    predictions = model.predict(lazy_X)
    assert isinstance(predictions, da.Array)
    assert predictions.chunks[0] == lazy_X.chunks[0]
    assert predictions.shape == y.shape
    assert_allclose(predictions.compute(), reference.predict(X), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["yield", ["yield", "cost"]])
def test_dataframes_on_a_cluster(cluster, frame, targets):
    frame = frame.set_index(np.arange(len(frame)) + 1000)
    lazy = dd.from_pandas(frame, npartitions=4)

    reference = TorchPolynomialRegressor().fit(frame[NAMES], frame[targets])
    model = TorchPolynomialRegressor().fit(lazy[NAMES], lazy[targets])

    assert_same_polynomial(model, reference)
    assert model.feature_names_in_.tolist() == NAMES
    assert_allclose(model.score(lazy[NAMES], lazy[targets]), reference.score(frame[NAMES], frame[targets]), rtol=1e-12)
    predictions = model.predict(lazy[NAMES])
    assert predictions.npartitions == lazy.npartitions
    computed = predictions.compute()
    assert_array_equal(computed.index, frame.index)
    assert_allclose(computed, reference.predict(frame[NAMES]), rtol=1e-9)
    if targets == "yield":
        # Partition by partition, predictions are a column of the dataframe.
        residuals = lazy.assign(predicted=predictions).eval("predicted - `yield`").compute()
        assert_allclose(residuals, computed - frame["yield"], rtol=1e-12)


def block(number, marker=None):
    """Make rows where they are used; with a marker, the first worker to do so for the third block dies of it."""
    if marker is not None and number == 2 and not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(1)
    return np.random.default_rng(number).normal(size=(500, 3))


def blocks(marker=None):
    make = partial(dask.delayed(block), marker=marker)
    return da.concatenate([da.from_delayed(make(number), (500, 3), float) for number in range(6)])


def target(X):
    return X[:, 0] - X[:, 1] ** 2 * X[:, 2]


@pytest.mark.slow
def test_a_worker_killed_in_a_fit_changes_nothing(cluster, tmp_path):
    X = np.concatenate([block(number) for number in range(6)])
    reference = TorchPolynomialRegressor().fit(X, target(X) + np.sin(X[:, 2]))

    lazy = blocks(str(tmp_path / "killed"))
    model = TorchPolynomialRegressor().fit(lazy, target(lazy) + da.sin(lazy[:, 2]))

    assert (tmp_path / "killed").exists()
    assert_same_polynomial(model, reference)
    cluster.wait_for_workers(2)


class Wanted(SchedulerPlugin):
    """Writes down the sizes of all results that the caller has asked for."""

    def __init__(self, scheduler, sizes):
        self.scheduler, self.sizes = scheduler, sizes

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "memory" and self.scheduler.tasks[key].who_wants:
            self.sizes.append(self.scheduler.tasks[key].nbytes)


@pytest.mark.slow
def test_no_partition_travels_to_the_caller(cluster):
    sizes = []
    scheduler = cluster.cluster.scheduler
    scheduler.add_plugin(Wanted(scheduler, sizes), name="wanted")
    lazy = blocks()
    model = TorchPolynomialRegressor().fit(lazy, target(lazy))
    model.score(lazy, target(lazy))
    scheduler.remove_plugin("wanted")

    # One for the fit, one for its residuals, since y is a polynomial up to rounding, and one for the score.
    assert len(sizes) == 3
    # The 20 terms' Gram matrix; a partition has 12000.
    assert max(sizes) < 6000


def test_predictions_stay_those_of_the_fit(frame):
    lazy = dd.from_pandas(frame, npartitions=3)
    model = TorchPolynomialRegressor().fit(lazy[NAMES], lazy["yield"])
    expected = model.predict(frame[NAMES])
    predictions = model.predict(lazy[NAMES])
    model.fit(lazy[NAMES], lazy["cost"])
    assert_allclose(predictions.compute(), expected, rtol=1e-12)


def test_float32_stays_so(frame):
    single = frame.astype(np.float32)
    lazy = dd.from_pandas(single, npartitions=3)
    model = TorchPolynomialRegressor().fit(lazy[NAMES], lazy["yield"])
    assert_same_polynomial(model, TorchPolynomialRegressor().fit(single[NAMES], single["yield"]))
    assert model.predict(lazy[NAMES]).dtype == model.predict(lazy[NAMES]).compute().dtype == np.float32
    mixed = lazy[NAMES].assign(flow=1).astype({"flow": "int16"})
    assert model.predict(mixed).dtype == model.predict(mixed.compute()).dtype == np.float32


def test_partitions_of_unknown_length(frame):
    lazy = dd.from_pandas(frame, npartitions=4)
    warm, kept = lazy[lazy.temperature > 0.3], frame[frame.temperature > 0.3]
    reference = TorchPolynomialRegressor().fit(kept[NAMES], kept["cost"])
    model = TorchPolynomialRegressor().fit(warm[NAMES].to_dask_array(), warm["cost"].to_dask_array())
    assert_same_polynomial(model, reference)
    assert_allclose(model.predict(warm[NAMES].to_dask_array()).compute(), reference.predict(kept[NAMES]), rtol=1e-9)
    assert_allclose(
        model.score(warm[NAMES].to_dask_array(), warm["cost"].to_dask_array()),
        reference.score(kept[NAMES], kept["cost"]),
    )


def test_partitions_without_rows(frame):
    lazy = dd.from_pandas(frame, npartitions=4)
    first, kept = lazy.map_partitions(lambda rows: rows[rows.index < 100]), frame[:100]
    model = TorchPolynomialRegressor().fit(first[NAMES], first["cost"])
    assert_same_polynomial(model, TorchPolynomialRegressor().fit(kept[NAMES], kept["cost"]))
    assert_allclose(model.predict(first[NAMES]).compute(), model.predict(kept[NAMES]), rtol=1e-12)


def test_frames_of_other_divisions_are_aligned(frame):
    lazy, other = dd.from_pandas(frame, npartitions=4), dd.from_pandas(frame, npartitions=3)
    model = TorchPolynomialRegressor().fit(lazy[NAMES], other["cost"])
    assert_same_polynomial(model, TorchPolynomialRegressor().fit(frame[NAMES], frame["cost"]))


@pytest.mark.parametrize("kind", ["collinear", "heavy tails"])
def test_ill_conditioned_partitions_are_read_again(rng, kind):
    if kind == "collinear":
        x = rng.uniform(-1, 1, 2000)
        X = np.column_stack([x, x + 1e-7 * rng.normal(size=2000)])
        y = x**3 + 1e7 * (X[:, 1] - x)
    else:
        X = rng.standard_cauchy((2000, 2))
        y = np.tanh(X[:, 0]) + X[:, 1] / (1 + X[:, 1] ** 2)
    reference = TorchPolynomialRegressor(degree=5).fit(X, y)
    model = TorchPolynomialRegressor(degree=5).fit(da.from_array(X, chunks=(300, 2)), da.from_array(y, chunks=300))
    assert_allclose(model.score(X, y), reference.score(X, y), rtol=1e-6)


def test_batches_may_follow(surface):
    X, Y = surface
    model = TorchPolynomialRegressor().fit(da.from_array(X[:200], chunks=(50, 3)), da.from_array(Y[:200], chunks=50))
    assert_same_polynomial(model.partial_fit(X[200:], Y[200:]), TorchPolynomialRegressor().fit(X, Y))


def test_score_is_scikit_learns(rng):
    X, Y = rng.normal(size=(100, 2)), rng.normal([1e6, 0.0, 0.0], size=(100, 3))
    Y[:, 2] = 5.0
    weights = rng.uniform(size=100)
    model = TorchPolynomialRegressor(degree=2).fit(X[:50], Y[:50] - [1e6, 0, 0])
    lazy = [da.from_array(values, chunks=30) for values in (X, Y, weights)]
    assert_allclose(model.score(*lazy), r2_score(Y, model.predict(X), sample_weight=weights), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_scores_at_the_edges(rng):
    X, y = rng.normal(size=(1000, 1)), 1e9 + rng.normal(size=1000)
    lazy = da.from_array(X, chunks=50), da.from_array(y, chunks=50)
    mean = TorchPolynomialRegressor(degree=0).fit(X, y)
    assert_allclose(mean.score(*lazy), 0.0, atol=1e-12)
    assert np.isnan(mean.score(lazy[0][:1], lazy[1][:1]))
    with pytest.raises(ValueError, match=r"different number of output \(2!=1\)"):
        mean.score(lazy[0], da.stack([lazy[1], lazy[1]], axis=1))


def test_searches_in_collections(frame):
    lazy = dd.from_pandas(frame, npartitions=3)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2, 3]})
    with pytest.raises(TypeError, match=r"X is a Dask dataframe.*to_dask_array\(lengths=True\)"):
        search.fit(lazy[NAMES], lazy["cost"])
    arrays = [values.to_dask_array(lengths=True) for values in (lazy[NAMES], lazy["cost"])]
    found = search.fit(*arrays).cv_results_["mean_test_score"]
    in_memory = clone(search).fit(frame[NAMES], frame["cost"]).cv_results_["mean_test_score"]
    assert_allclose(found, in_memory, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("search", [GridSearchCV, PolynomialGridSearchCV])
def test_searches_on_the_backend_of_joblib(cluster, surface, search):
    X, Y = surface
    grid = {"degree": [1, 2, 3], "alpha": [0.0, 0.01]}
    with joblib.parallel_config("dask"):
        found = search(TorchPolynomialRegressor(), grid).fit(X, Y)
    reference = GridSearchCV(TorchPolynomialRegressor(), grid).fit(X, Y)
    assert found.best_params_ == reference.best_params_
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(found.cv_results_[key], reference.cv_results_[key], rtol=1e-9)


def with_nan(values, row):
    values = values.copy()
    values[row] = np.nan
    return values


def frames(parts):
    return dd.from_delayed([dask.delayed(part) for part in parts], meta=parts[0][:0], verify_meta=False)


REFUSED = {
    "NaN in X": (lambda X, y: (da.from_array(with_nan(X.compute(), 250), chunks=100), y), {}, "partition 2: Input X"),
    "NaN in y": (lambda X, y: (X, da.from_array(with_nan(y.compute(), 5), chunks=100)), {}, "partition 0: Input y"),
    "lengths": (lambda X, y: (X, y[:200]), {}, "X has 300, 'y' has 200"),
    "one dimension": (lambda X, y: (X[:, 0], y), {}, "Expected 2D array, got 1D"),
    "y has unknown lengths": (lambda X, y: (X, y[y > 0]), {}, "In partition .: .*inconsistent numbers of samples"),
    "y in other partitions": (lambda X, y: (X, y.rechunk(300)[y.rechunk(300) > 0]), {}, "'y' has 1 partitions and X"),
    "y in memory": (lambda X, y: (X[y > 0], np.ones(300)), {}, "'y' is in memory.*compute_chunk_sizes"),
    "y is a scalar": (lambda X, y: (X, 5.0), {}, "'y' is a scalar, 5.0"),
    "y of three dimensions": (lambda X, y: (X, y[:, None, None]), {}, "Expected 1D or 2D array, got 3D.*y is missh"),
    "None in y": (
        lambda X, y: (X, y.map_blocks(lambda part: np.where(part > 0, part, None), dtype=object)), {}, "Input y cont"
    ),
    "y lies about its dimensions": (
        lambda X, y: (X, y.map_blocks(lambda part: part[:, None], meta=np.empty(0))), {}, r"y has the shape \(100, 1\)"
    ),
    "weights are negative": (lambda X, y: (X, y, 0 * y - 1), {}, "In partition .: Negative values"),
    "weights are zero": (lambda X, y: (X, y, 0 * y), {}, "None of the 3 partitions has a row of positive"),
    "no rows": (lambda X, y: (X[y > np.inf], y[y > np.inf]), {}, "None of the 3 partitions has a row"),
    "another loss": (lambda X, y: (X, y), {"loss": "huber"}, "'loss' parameter got 'huber'.*serves loss='squared_err"),
    "batches": (lambda X, y: (X, y), {"batch_size": 5, "optimizer": "adam"}, "'batch_size' parameter got 5"),
    "warm start": (lambda X, y: (X, y), {"warm_start": True}, "'warm_start' parameter got True"),
    "a device that no worker has": (lambda X, y: (X, y), {"device": "cuda:7"}, "In partition .: The 'device'"),
    "terms": (lambda X, y: (X, y), {"degree": 200}, "The greatest degree that fits"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_fit_refuses(surface, case):
    X, y = (da.from_array(values, chunks=100) for values in (surface[0], surface[1][:, 0]))
    change, parameters, message = REFUSED[case]
    model = TorchPolynomialRegressor(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(*change(X, y))
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_partitions_of_differing_columns_are_refused(frame):
    lazy = dd.from_pandas(frame, npartitions=2)
    fewer, others = frame[NAMES[:2]][150:], frame[NAMES][150:][::-1].rename(columns={"flow": "speed"})
    for second, message in [(fewer, r"partition 1: .*\(150, 2\), but X .* has 3 columns"), (others, "1: .*'speed'")]:
        with pytest.raises(ValueError, match=message):
            TorchPolynomialRegressor().fit(frames([frame[NAMES][:150], second]), lazy["yield"])


def test_targets_in_another_order_are_refused(frame):
    lazy = dd.from_pandas(frame, npartitions=2)
    targets = frames([frame[["yield", "cost"]][:150], frame[["cost", "yield"]][150:]])
    with pytest.raises(ValueError, match=r"partition 1: y has the columns \['cost', 'yield'\]"):
        TorchPolynomialRegressor().fit(lazy[NAMES], targets)


def test_an_index_that_does_not_meet_is_refused(frame):
    lazy, other = dd.from_pandas(frame, npartitions=2), dd.from_pandas(frame["yield"].rename(str), npartitions=2)
    with pytest.raises(ValueError, match=r"index of 'y' runs from '0' to '99', that of X from 0 to 299"):
        TorchPolynomialRegressor().fit(lazy[NAMES], other)


def test_one_weight_for_all_rows(surface):
    X, y = (da.from_array(values, chunks=100) for values in surface)
    assert_same_polynomial(TorchPolynomialRegressor().fit(X, y, 2.0), TorchPolynomialRegressor().fit(*surface))


def test_collections_of_other_kinds_are_refused(surface):
    X, y = surface[0], da.from_array(surface[1], chunks=100)
    with pytest.raises(TypeError, match=r"X is a ndarray, but other arguments are Dask arrays"):
        TorchPolynomialRegressor().fit(X, y)
    with pytest.raises(TypeError, match=r"X is a Dask Bag.*Give Dask arrays or dataframes"):
        TorchPolynomialRegressor().fit(dask.bag.from_sequence([1, 2]), y)
    for others in ((dask.delayed(X), y), (da.from_array(X, chunks=100), dask.delayed(surface[1]))):
        with pytest.raises(TypeError, match=r"is a Dask Delayed.*Give Dask arrays or dataframes"):
            TorchPolynomialRegressor().fit(*others)


def test_what_predict_refuses(frame):
    lazy = dd.from_pandas(frame, npartitions=3)
    model = TorchPolynomialRegressor().fit(lazy[NAMES], lazy["yield"])
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(lazy[NAMES[::-1]])
    with pytest.raises(ValueError, match="X has 2 features, but TorchPolynomialRegressor is expecting 3"):
        TorchPolynomialRegressor().fit(frame[NAMES].to_numpy(), frame["yield"]).predict(da.ones((3, 2)))
    bad = dd.from_pandas(frame.assign(flow=with_nan(frame["flow"].to_numpy(), 299)), npartitions=3)
    with pytest.raises(ValueError, match="In partition 2: Input X contains NaN"):
        model.predict(bad[NAMES]).compute()
    nullable = dd.from_pandas(frame[NAMES].astype("Float64").mask(frame[NAMES] > 50.0), npartitions=3)
    with pytest.raises(ValueError, match=r"In partition .: Input X contains NaN"):
        model.predict(nullable).compute()
    model.set_params(extrapolation="error")
    with pytest.raises(ValueError, match=rf"In partition .: X has values outside .* in columns .*'{NAMES[0]}'"):
        model.predict(2 * lazy[NAMES]).compute()


@pytest.mark.slow
def test_a_scheduler_that_is_gone(surface):
    X, y = (da.from_array(values, chunks=100) for values in surface)
    model = TorchPolynomialRegressor().fit(X, y)
    before = model.term_coef_
    with Client(n_workers=1, processes=False, dashboard_address=":0"):
        X = X.persist()
    with pytest.raises(RuntimeError, match=r"The Dask scheduler has gone.*Connect a new dask.distributed.Client"):
        model.fit(X, y)
    assert_array_equal(model.term_coef_, before)
