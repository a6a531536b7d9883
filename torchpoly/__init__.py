"""Polynomial regression for scikit-learn, trained with torch."""

from torchpoly._fit_display import PolynomialFitDisplay
from torchpoly._loss_display import LossCurveDisplay
from torchpoly._regressor import TorchPolynomialRegressor
from torchpoly._search import PolynomialGridSearchCV

__version__ = "0.1.0"

__all__ = [
    "LossCurveDisplay",
    "PolynomialFitDisplay",
    "PolynomialGridSearchCV",
    "TorchPolynomialRegressor",
    "__version__",
]
