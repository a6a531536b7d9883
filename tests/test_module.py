"""The fitted polynomial as a torch module, exported, and outside the box of the training data."""

import numpy as np
import onnxruntime
import pytest
import sympy
import torch

from torchpoly import TorchPolynomialRegressor

EXTRAPOLATIONS = ["continue", "constant", "linear", "error"]


@pytest.fixture
def near_and_far(surface, rng):
    """Rows inside and outside the box of `surface`."""
    X, _ = surface
    low, high = X.min(axis=0), X.max(axis=0)
    return rng.uniform(low - (high - low) / 2, high + (high - low) / 2, (200, 3))


@pytest.mark.slow
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"basis": "monomial", "degree": 1}, {"interaction_only": True}, {"loss": "huber"}],
    ids=lambda settings: ",".join(map(str, settings.values())) or "defaults",
)
@pytest.mark.parametrize("targets", [0, slice(None)], ids=["one", "two"])
def test_module_export_and_onnx_are_predict(extrapolation, settings, targets, surface, near_and_far, tmp_path):
    X, Y = surface
    model = TorchPolynomialRegressor(extrapolation=extrapolation, **settings).fit(X, Y[:, targets])
    rows = X[:50] if extrapolation == "error" else near_and_far
    expected = model.predict(rows)
    size = np.abs(expected).max()

    module, tensor = model.module_, torch.tensor(rows)
    np.testing.assert_allclose(module(tensor), expected, atol=1e-10 * size)
    dynamic = ({0: torch.export.Dim("rows")},)
    exported = torch.export.export(module, (torch.tensor(X),), dynamic_shapes=dynamic).module()
    np.testing.assert_allclose(exported(tensor), expected, atol=1e-10 * size)


@pytest.mark.slow
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_onnx_runtime_is_predict(extrapolation, surface, near_and_far, tmp_path):
    X, Y = surface
    model = TorchPolynomialRegressor(extrapolation=extrapolation).fit(X, Y)
    example, dynamic = (torch.tensor(X),), ({0: torch.export.Dim("rows")},)
    torch.onnx.export(model.module_, example, dynamo=True, dynamic_shapes=dynamic, verbose=False).save(
        tmp_path / "model.onnx"
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (predicted,) = session.run(None, {session.get_inputs()[0].name: near_and_far})
    if extrapolation == "error":
        outside = ((near_and_far < X.min(axis=0)) | (near_and_far > X.max(axis=0))).any(axis=1)
        assert 0 < outside.sum() < len(outside)
        np.testing.assert_array_equal(np.isnan(predicted).all(axis=1), outside)
        predicted, near_and_far = predicted[~outside], near_and_far[~outside]
    expected = model.predict(near_and_far)
    np.testing.assert_allclose(predicted, expected, atol=1e-8 * np.abs(expected).max())
    if extrapolation == "continue":
        very_far = 1e200 * X[:20]
        (predicted,) = session.run(None, {session.get_inputs()[0].name: very_far})
        np.testing.assert_array_equal(predicted, model.predict(very_far))  # infinities


def test_gradient_of_the_module_is_the_derivative_of_the_equation(surface):
    X, Y = surface
    model = TorchPolynomialRegressor().fit(X, Y[:, 0])
    equation = sympy.sympify(model.equation(17).split("=")[1])
    rows = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.module_(rows).sum(), rows)
    for column, symbol in enumerate(sympy.symbols("x:3")):
        derivative = sympy.lambdify(sympy.symbols("x:3"), sympy.diff(equation, symbol))
        expected = derivative(*X.T)
        np.testing.assert_allclose(gradient[:, column], expected, atol=1e-6 * np.abs(expected).max())


def test_a_module_made_in_inference_mode_is_differentiable(surface):
    X, Y = surface
    model = TorchPolynomialRegressor().fit(X, Y)
    with torch.inference_mode():
        module = model.module_
    rows = torch.tensor(X, requires_grad=True)
    module(rows).sum().backward()
    assert rows.grad.abs().sum() > 0
    assert not module.training


def test_constant_is_the_nearest_point_of_the_box(surface, near_and_far):
    X, Y = surface
    model = TorchPolynomialRegressor().fit(X, Y)
    inside = np.clip(near_and_far, X.min(axis=0), X.max(axis=0))
    expected = model.predict(inside)
    np.testing.assert_array_equal(model.set_params(extrapolation="constant").predict(near_and_far), expected)


@pytest.mark.parametrize("settings", [{}, {"basis": "monomial", "degree": 2, "n_iter": 5, "tol": None, "lr": 1e-12}])
def test_linear_is_the_tangent_there(settings, surface, near_and_far):
    """By finite differences; columns that nearly coincide have principal axes for variables."""
    X, Y = surface
    X = np.column_stack([X, X[:, 0] + 1e-7 * X[:, 1]]) / [1, 100, 0.01, 1] if not settings else X
    near_and_far = near_and_far / [1, 100, 0.01] if not settings else near_and_far
    rows = np.column_stack([near_and_far, near_and_far[:, 0]]) if not settings else near_and_far
    model = TorchPolynomialRegressor(**settings).fit(X, Y)
    inside = np.clip(rows, X.min(axis=0), X.max(axis=0))
    step = 1e-6
    expected = model.predict(inside) + (
        model.predict(inside + step * (rows - inside)) - model.predict(inside - step * (rows - inside))
    ) / (2 * step)
    model.set_params(extrapolation="linear")
    scale = np.abs(expected).max()
    np.testing.assert_allclose(model.predict(rows), expected, atol=1e-6 * scale)
    np.testing.assert_allclose(model.module_(torch.tensor(rows)), model.predict(rows), atol=1e-10 * scale)
    tensor = torch.tensor(rows, requires_grad=True)
    model.module_(tensor).sum().backward()
    assert torch.isfinite(tensor.grad).all()


def test_the_box_is_that_of_rows_with_weight(surface):
    X, Y = surface
    weights = (np.abs(X[:, 0]) < 1).astype(float)
    model = TorchPolynomialRegressor(extrapolation="error").fit(X, Y, weights)
    model.predict(X[weights > 0])
    with pytest.raises(ValueError, match="outside the range"):
        model.predict(X)
    model.set_params(extrapolation="continue").predict(X)


def test_float32_rows_of_the_training_data_are_inside(surface):
    X, Y = (values.astype(np.float32) for values in surface)
    model = TorchPolynomialRegressor(extrapolation="error").fit(X, Y)
    assert model.predict(X).dtype == np.float32
    for extrapolation in ("constant", "linear"):
        model.set_params(extrapolation=extrapolation)
        assert model.predict(X * 2).dtype == np.float32
        assert model.module_.to(torch.float32)(torch.tensor(X)).dtype == torch.float32


@pytest.mark.slow
def test_onnx_runtime_keeps_the_digits_of_one_column(tmp_path):
    X = np.linspace(-200, 1300, 100)[:, None]
    model = TorchPolynomialRegressor(15, extrapolation="linear").fit(X, np.sin(X[:, 0] / 200))
    program = torch.onnx.export(model.module_, (torch.tensor(X),), dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (predicted,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(predicted, model.predict(X), rtol=0, atol=1e-12)
