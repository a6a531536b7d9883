"""Polynomial regression for scikit-learn, trained with torch."""

from torchpoly._regressor import TorchPolynomialRegressor

__version__ = "0.1.0.dev0"

__all__ = ["TorchPolynomialRegressor", "__version__"]
