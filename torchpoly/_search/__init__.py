"""Grid search from the Gram matrices of splits."""

from torchpoly._search.grid_search import PolynomialGridSearchCV

__all__ = ["PolynomialGridSearchCV"]
