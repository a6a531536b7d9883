"""Polynomial regression for scikit-learn, trained with torch."""

from torchpoly._display import LossCurveDisplay, PolynomialFitDisplay
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
