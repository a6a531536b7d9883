"""Tensors and other arrays in, the same out: scikit-learn's checks, and what users do."""

import warnings

import array_api_strict
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.utils._array_api import NamespaceAndDevice
from sklearn.utils.estimator_checks import check_array_api_input_and_values, check_array_api_mixed_inputs

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

MODELS = [
    TorchPolynomialRegressor(2),
    TorchPolynomialRegressor(3, alpha=0.1),
    TorchPolynomialRegressor(1, optimizer="adam", n_iter=50, tol=None),
    TorchPolynomialRegressor(1, loss="huber"),
]
STRICT, TENSOR, NUMPY = (
    NamespaceAndDevice("array_api_strict", "device1"),
    NamespaceAndDevice("torch", "cpu"),
    NamespaceAndDevice("numpy", None),
)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_tensor_in_gives_a_tensor_out(model, device, dtype, weighted):
    check_array_api_input_and_values("", model, "torch", device, dtype, check_sample_weight=weighted)


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("spaces", [(STRICT, TENSOR), (TENSOR, NUMPY), (NUMPY, TENSOR), (TENSOR, STRICT)], ids=str)
def test_y_and_weights_follow_X(model, spaces):  # noqa: N802
    check_array_api_mixed_inputs("", model, *spaces, check_values=True)


def test_without_dispatch_tensors_are_taken_and_numpy_comes_back(surface):
    X, Y = surface
    weights = np.linspace(0, 1, len(X))
    tensors = [torch.from_numpy(values) for values in (X, Y, weights)]
    expected = TorchPolynomialRegressor().fit(X, Y, weights).predict(X)
    model = TorchPolynomialRegressor().fit(*tensors)
    predictions = model.predict(tensors[0].requires_grad_())
    assert isinstance(predictions, np.ndarray)
    np.testing.assert_array_equal(predictions, expected)
    partial = TorchPolynomialRegressor().partial_fit(*tensors).predict(tensors[0])
    np.testing.assert_allclose(partial, expected, atol=1e-9)
    with config_context(array_api_dispatch=True):
        np.testing.assert_array_equal(model.predict(X), expected)
        assert torch.is_tensor(model.predict(tensors[0]))
        model.fit(*(tensor.detach() for tensor in tensors))
        with pytest.raises(ValueError, match=r"predict\(\) must use the same namespace.*torch on cpu, not .*numpy"):
            model.predict(X)
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_tensors_of_other_types_become_floats(dtype, surface):
    X, Y = surface
    rounded = torch.from_numpy(X).to(dtype)
    expected = TorchPolynomialRegressor(2).fit(rounded.to(torch.float32).numpy(), Y)
    model = TorchPolynomialRegressor(2).fit(rounded, Y)
    np.testing.assert_allclose(model.predict(rounded[:5]), expected.predict(rounded[:5].float().numpy()), rtol=1e-4)


def test_fitted_state_is_numpy(surface):
    X, Y = surface
    with config_context(array_api_dispatch=True):
        model = TorchPolynomialRegressor().fit(torch.from_numpy(X), array_api_strict.asarray(Y))
    assert isinstance(model.term_coef_, np.ndarray)
    assert isinstance(model.loss_curve_, np.ndarray)
    assert not any(torch.is_tensor(value) for value in vars(model).values())


def test_a_search_takes_tensors(surface):
    X, Y = surface
    grid = {"degree": [1, 2], "loss": ["squared_error", "huber"]}
    ours = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid).fit(torch.from_numpy(X), torch.from_numpy(Y))
    expected = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid).fit(X, Y)
    np.testing.assert_array_equal(ours.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def test_frames_lists_and_arrays_are_all_on_the_cpu(surface):
    X, y = surface[0], surface[1][:, 0]
    kinds = X, X.tolist(), pd.DataFrame(X).rename(columns=str)
    with config_context(array_api_dispatch=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there or not
        for fitted in kinds:
            model = TorchPolynomialRegressor(2).fit(fitted, y)
            for given in kinds:
                np.testing.assert_allclose(model.predict(given), model.predict(fitted), rtol=1e-12)


def test_tensors_that_are_views_or_need_gradients(surface):
    X, y = surface[0], surface[1][:, 0]
    expected = TorchPolynomialRegressor(2).fit(X, y, np.abs(y))
    imaginary = torch.complex(torch.tensor(X), torch.tensor(-X)).conj().imag
    targets, weights = torch.tensor(y, requires_grad=True), torch.tensor(np.abs(y), requires_grad=True)
    model = TorchPolynomialRegressor(2).fit(imaginary, targets, weights)
    np.testing.assert_allclose(model.predict(imaginary), expected.predict(X), rtol=1e-12)
    assert model.score(imaginary, targets, weights) == pytest.approx(expected.score(X, y, np.abs(y)))
