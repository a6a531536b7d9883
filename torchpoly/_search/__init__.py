"""Grid search that trains and scores candidates from the Gram matrices of cross-validation splits."""

from torchpoly._search.grid_search import PolynomialGridSearchCV

__all__ = ["PolynomialGridSearchCV"]
