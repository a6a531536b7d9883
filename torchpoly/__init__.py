"""Polynomial regression for scikit-learn, trained with torch."""

from torchpoly._display.diagnostics import DiagnosticsDisplay
from torchpoly._display.fit import PolynomialFitDisplay
from torchpoly._display.loss_curve import LossCurveDisplay
from torchpoly._estimator.overfitting import OverfittingWarning
from torchpoly._estimator.regressor import TorchPolynomialRegressor
from torchpoly._search.grid_search import PolynomialGridSearchCV
from torchpoly._search.one_standard_error import one_standard_error

__version__ = "0.1.0"

__all__ = [
    "DiagnosticsDisplay",
    "LossCurveDisplay",
    "OverfittingWarning",
    "PolynomialFitDisplay",
    "PolynomialGridSearchCV",
    "TorchPolynomialRegressor",
    "__version__",
    "one_standard_error",
]
