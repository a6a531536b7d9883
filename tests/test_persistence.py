"""Models that were saved: by other versions, on other machines, by pickle, joblib and skops."""

import copy
import pickle
import re
import warnings
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import cloudpickle
import joblib
import numpy as np
import pytest
import skops.io
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._estimator import base

SAVED = sorted((Path(__file__).parent / "saved").glob("*.joblib"))


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
@pytest.mark.filterwarnings("error", "ignore::scipy.linalg.LinAlgWarning")
def test_models_of_earlier_versions(file):
    for name, saved in joblib.load(file).items():
        model = saved["model"]
        polynomial = getattr(model, "best_estimator_", model)
        polynomial = polynomial[-1] if name == "pipeline" else polynomial
        assert_array_equal(polynomial.term_coef_, saved["coef_"], err_msg=name)
        # Products of matrices are not rounded alike on all processors.
        assert_allclose(model.predict(saved["X"]), saved["predictions"], rtol=1e-13, atol=1e-13, err_msg=name)
    saved["model"].fit(saved["X"], saved["predictions"])


def test_batches_go_on_in_a_later_version(rng):
    saved = joblib.load(SAVED[0])["batches"]
    before, X, Y = saved["model"].predict(saved["X"]), rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    assert np.abs(saved["model"].partial_fit(X, Y).predict(saved["X"]) - before).max() > 0.01


def test_a_later_format_is_refused(surface, monkeypatch):
    model = TorchPolynomialRegressor().fit(*surface)
    monkeypatch.setattr(base, "_FORMAT", 3)
    saved = pickle.dumps(model)
    assert_array_equal(pickle.loads(saved).predict(surface[0]), model.predict(surface[0]))
    monkeypatch.setattr(base, "_FORMAT", 2)
    with pytest.raises(ValueError, match=r"saved by torchpoly .* in format 3, .* reads format 2\. Upgrade torchpoly"):
        pickle.loads(saved)


def test_models_of_the_first_version_are_refused():
    saved = b"ctorchpoly._regressor\nTorchPolynomialRegressor\n."
    with pytest.raises(ImportError, match=r"saved by torchpoly 0\.1\.0.*Fit it again"):
        pickle.loads(saved)


def test_a_model_of_an_accelerator_loads_without_it(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(device="cpu:0").fit(X, Y)
    expected = model.predict(X)
    loaded = pickle.loads(pickle.dumps(model.set_params(device="cuda:9")))
    assert_allclose(loaded.predict(X), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["fit", "batches", "huber", "search"])
def test_skops(kind, surface):
    X, Y = surface
    model = TorchPolynomialRegressor(2, loss="huber" if kind == "huber" else "squared_error")
    if kind == "search":
        model = PolynomialGridSearchCV(model, {"degree": [1, 2]})
    fitted = model.partial_fit(X, Y) if kind == "batches" else model.fit(X, Y)
    saved = skops.io.dumps(fitted)
    untrusted = skops.io.get_untrusted_types(data=saved)
    ours = {"torchpoly.TorchPolynomialRegressor"}
    searched = {"torchpoly.PolynomialGridSearchCV", "sklearn.metrics._scorer._PassthroughScorer"}
    assert set(untrusted) == (ours | searched if kind == "search" else ours)
    assert_array_equal(skops.io.loads(saved, trusted=untrusted).predict(X), fitted.predict(X))


KINDS = {
    "default": TorchPolynomialRegressor(),
    "huber": TorchPolynomialRegressor(loss="huber"),
    "few rows": TorchPolynomialRegressor(12),
    "textbook": TorchPolynomialRegressor(2, basis="monomial", optimizer=torch.optim.Adam),
    "pipeline": make_pipeline(StandardScaler(), TorchPolynomialRegressor()),
    "search": PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2], "alpha": [0.0, 1.0]}),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("save", [pickle.dumps, cloudpickle.dumps, skops.io.dumps])
@pytest.mark.parametrize("kind", [*KINDS, "batches"])
def test_files_name_nothing_private(kind, save, surface):
    X, Y = surface
    model = TorchPolynomialRegressor().partial_fit(X, Y) if kind == "batches" else clone(KINDS[kind]).fit(X, Y)
    saved = save(model)
    if save is skops.io.dumps:
        with ZipFile(BytesIO(saved)) as archive:
            saved = archive.read("schema.json")
    named = set(re.findall(rb"torchpoly[.\w]*", saved))
    assert named <= {b"torchpoly", b"torchpoly.TorchPolynomialRegressor", b"torchpoly.PolynomialGridSearchCV"} | {
        b"torchpolynomialregressor"  # the name of the step in a pipeline
    }


@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind, surface):
    X, Y = surface
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = clone(KINDS[kind]).fit(X, Y)
    for copied in [copy.copy(model), copy.deepcopy(model), pickle.loads(cloudpickle.dumps(model))]:
        assert_array_equal(copied.predict(X), model.predict(X))
        assert repr(copied) == repr(model)


def test_files_hold_no_caches(rng):
    X, y = rng.normal(size=(200, 20)), rng.normal(size=200)
    model = TorchPolynomialRegressor(2).fit(X, y)
    before = len(pickle.dumps(model))
    model.term_coef_, model.powers_, model.predict(X)
    assert len(pickle.dumps(model)) < before + 8 * 231 + 500
    # 231 terms: their coefficients and errors, and for batches to come their Gram matrix.
    assert len(pickle.dumps(TorchPolynomialRegressor(2).partial_fit(X, y))) < 8 * 231 * (2 * 231 + 2) + 5000
