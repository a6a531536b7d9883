"""Processes, threads, and what these have set: fits neither hang nor differ, and leave all as it was."""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_info

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

pytestmark = pytest.mark.slow


def squares(y_pred, y_true):
    return (y_pred - y_true) ** 2


FITS = {
    "squared error": {},
    "adam": {"optimizer": "adam", "n_iter": 50, "tol": None},
    "nadam": {"optimizer": "nadam", "n_iter": 50, "tol": None},
    "asgd": {"optimizer": "asgd", "n_iter": 50, "tol": None},
    "adafactor": {"optimizer": "adafactor", "n_iter": 50, "tol": None},
    "muon": {"optimizer": "muon", "n_iter": 5, "tol": None},
    "muon on batches": {"optimizer": "muon", "batch_size": 50, "n_iter": 30, "tol": None},
    "huber": {"loss": "huber"},
    "absolute error": {"loss": "absolute_error"},
    "callable": {"loss": squares, "n_iter": 20, "tol": None},
    "batches": {"loss": squares, "optimizer": "adam", "batch_size": 150, "n_iter": 5, "tol": None},
}

IN_FORKED_CHILDREN = """
import multiprocessing, sys
import numpy as np, torch
{imported}

def fit(**parameters):
    from torchpoly import TorchPolynomialRegressor
    X = np.random.default_rng(0).normal(size=(50_000, 3))
    TorchPolynomialRegressor(**parameters).fit(X, np.sin(X.sum(axis=1)))
    assert torch.get_num_threads() == threads

torch.set_num_threads(2)
threads = torch.get_num_threads()
torch.randn(10**6).exp().sum()  # large enough to be shared by threads
squares = lambda y_pred, y_true: (y_pred - y_true) ** 2
for parameters in (
    {{"loss": squares, "n_iter": 5, "tol": None}},
    {{}},
    {{"optimizer": "muon", "n_iter": 5, "tol": None}},
    {{"loss": squares, "optimizer": "adam", "batch_size": 40_000, "n_iter": 2, "tol": None}},
)[:{cases}]:
    child = multiprocessing.get_context("fork").Process(target=fit, kwargs=parameters)
    child.start()
    child.join(60)
    if child.exitcode != 0:
        child.kill()
        sys.exit(f"{{parameters}} ended with {{child.exitcode}}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("imported", "cases"), [("import torchpoly", 4), ("", 1)], ids=["imported before", "imported after"]
)
def test_fits_in_a_forked_process_end(imported, cases):
    script = IN_FORKED_CHILDREN.format(imported=imported, cases=cases)
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_backends_of_joblib(backend, surface):
    torch.randn(10**6).exp().sum()
    X, Y = surface
    grid = {"degree": [1, 2], "loss": ["squared_error", squares], "n_iter": [20], "tol": [None]}
    expected = GridSearchCV(TorchPolynomialRegressor(), grid, cv=2).fit(X, Y)
    with joblib.parallel_config(backend, n_jobs=2):
        found = GridSearchCV(TorchPolynomialRegressor(), grid, cv=2).fit(X, Y)
    assert_allclose(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], rtol=1e-9)


def threads_in_a_fit(X, y):
    TorchPolynomialRegressor(loss=squares, n_iter=2, tol=None).fit(X, y)
    return max([torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())])


def test_no_more_threads_than_cores(surface):
    with joblib.parallel_config("loky", n_jobs=2):
        threads = joblib.Parallel()(joblib.delayed(threads_in_a_fit)(*surface) for _ in range(2))
    assert max(threads) <= max(1, joblib.cpu_count() // 2)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_threads_at_once_give_the_same_bits(name, surface):
    X, Y = surface
    targets = [Y[:, [0]] * factor for factor in range(1, 9)]

    def predict(y):
        return TorchPolynomialRegressor(**FITS[name]).fit(X, y).predict(X)

    one_by_one = [predict(y) for y in targets]
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(predict, targets))
    assert_array_equal(at_once, one_by_one)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    yield
    torch.set_default_device(None)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


HOSTILE = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float16": partial(default_dtype, torch.float16),
    "default device": partial(default_device, "meta"),
    "device block": partial(torch.device, "meta"),
    "deterministic": deterministic,
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "autocast to float16": partial(torch.autocast, "cpu", dtype=torch.float16),
    "anomalies": torch.autograd.detect_anomaly,
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.filterwarnings("ignore")
def test_what_a_process_has_set_does_no_harm(hostile, surface):
    X, Y = surface

    def results(context):
        models = [TorchPolynomialRegressor(**parameters) for parameters in FITS.values()]
        search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"optimizer": ["adam", "asgd"], "n_iter": [20]})
        with context():
            for model in models:
                model.fit(X, Y)
            batch = TorchPolynomialRegressor(optimizer="nadam").partial_fit(X, Y)
            x = torch.tensor(X, device="cpu", dtype=torch.float64)
            values = models[0].module_(x).detach().cpu().numpy()
            scores = search.fit(X, Y).cv_results_["mean_test_score"]
            return [model.predict(X) for model in (*models, batch)], values, scores

    for mine, default_torch_state in zip(results(HOSTILE[hostile]), results(nullcontext), strict=True):
        assert_array_equal(mine, default_torch_state)


def state():
    """What is global in torch, NumPy and Python."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002
        np.geterr(),
        list(warnings.filters),
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_nothing_global_changes(surface):
    X, Y = surface
    TorchPolynomialRegressor(optimizer="adam").fit(X, Y)  # imports what torch imports late
    before = state()
    for parameters in FITS.values():
        TorchPolynomialRegressor(**parameters).fit(X, Y).predict(X)
    PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2], "optimizer": ["lbfgs", "adam"]}).fit(X, Y)
    assert TorchPolynomialRegressor().partial_fit(X, Y).module_ is not None
    assert state() == before
