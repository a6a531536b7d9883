"""Which modules are imported when, in fresh processes: torch by fit and module_, its compiler by neither."""

import subprocess
import sys

import joblib
import pytest
import skops.io
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

pytestmark = pytest.mark.slow

WITHOUT_TORCH = """
import importlib.abc, sys

class Refusal(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise ImportError("torch is not installed here")

sys.meta_path.insert(0, Refusal())
"""

USE = """
import copy, pickle, sys
import matplotlib; matplotlib.use("Agg")
import cloudpickle, joblib, numpy as np
from sklearn.base import clone
import torchpoly
from torchpoly.inspection import jackknife_interval

def last(model):
    model = getattr(model, "best_estimator_", model)
    return model[-1] if hasattr(model, "named_steps") else model

def predict(model, X):
    return model.predict(X), "torch" in sys.modules

models, X, y = joblib.load(sys.argv[1])
for model in models.values():
    for used in [model, copy.deepcopy(model), pickle.loads(cloudpickle.dumps(model)), clone(model)]:
        repr(used)
    model.predict(X), model.score(X, y)
    polynomial = last(model)
    polynomial.term_coef_, polynomial.intercept_, polynomial.powers_, polynomial.equation(), polynomial.loss_curve_
    torchpoly.PolynomialFitDisplay.from_estimator(model, X, y, residuals=True)
    torchpoly.LossCurveDisplay.from_estimator(model)
    if polynomial.loss == "squared_error":
        jackknife_interval(model, X, y, X)
    try:
        model.predict(X[:, :1])
    except ValueError:
        pass
    results = joblib.Parallel(n_jobs=2)(joblib.delayed(predict)(model, X) for _ in range(2))
    assert not any(is_imported for _, is_imported in results)
    assert (results[0][0] == model.predict(X)).all()
assert all("TorchPolynomialRegressor" in model._repr_html_() for model in models.values())
print("torch" in sys.modules)
# skops imports all of scikit-learn, and torch with it if that is there.
import skops.io
with open(sys.argv[1] + ".skops", "rb") as file:
    saved = file.read()
model = skops.io.loads(saved, trusted=skops.io.get_untrusted_types(data=saved))
assert (model.predict(X) == models["search"].predict(X)).all()
"""

FIT = """
import sys
import numpy as np
from torchpoly import TorchPolynomialRegressor
X = np.random.default_rng(0).normal(size=(2000, 2))
model = TorchPolynomialRegressor().fit(X, X[:, 0] ** 2)
print("torch" in sys.modules, "torch._dynamo" in sys.modules, model.n_iter_)
"""


def run(code, *arguments):
    """Return what a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_does_not_import_torch():
    code = "import sys, torchpoly.inspection; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    assert run(code) == ["False"] * 2


@pytest.mark.parametrize("setting", ["", WITHOUT_TORCH], ids=["with torch", "without torch"])
def test_loaded_models_do_not_import_torch(tmp_path, surface, setting):
    X, Y = surface
    y = Y.reshape(len(Y), -1)[:, 0]
    models = {
        "default": TorchPolynomialRegressor().fit(X, y),
        "linear": TorchPolynomialRegressor(2, loss="huber", extrapolation="linear").fit(X, y),
        "quantile": TorchPolynomialRegressor(2, loss="quantile", quantile=0.9).fit(X, y),
        "accelerator": TorchPolynomialRegressor(2).fit(X, y).set_params(device="cpu"),
        "pipeline": make_pipeline(StandardScaler(), TorchPolynomialRegressor(2)).fit(X, y),
        "search": PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}).fit(X, y),
    }
    file = str(tmp_path / "models")
    joblib.dump((models, X, y), file)
    skops.io.dump(models["search"], file + ".skops")
    assert run(setting + USE, file) == ["False"]


def test_the_default_fit_does_not_import_the_compiler():
    assert run(FIT) == ["True", "False", "1"]
