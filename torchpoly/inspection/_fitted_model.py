"""The models that the functions of this package accept: the regressor, a fitted search, a Pipeline that ends in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.array_api import to_host_array
from torchpoly._backend.rows import Floats, column_ranges
from torchpoly._backend.sklearn_compat import BaseSearchCV, Interval, validate_parameter_constraints
from torchpoly._backend.torch_state import overflow_as_value_error
from torchpoly._backend.validation import check_points, check_rows, check_weights
from torchpoly._dask.collections import is_collection
from torchpoly._estimator.regressor import TorchPolynomialRegressor
from torchpoly._gram.reading import TrainingRows

_ALLOWED = (
    "a TorchPolynomialRegressor, a search over one, or a Pipeline that ends in one of them, such as "
    "make_pipeline(StandardScaler(), TorchPolynomialRegressor())"
)
# Steps of a Pipeline may round rows otherwise in `transform` than in `fit_transform`. Ranges are the same up to this
# fraction of their width.
_MAX_RANGE_ERROR = 1e-6


@dataclass(frozen=True)
class FittedModel:
    """A fitted regressor, and the fitted steps of the Pipelines around it.

    Parameters
    ----------
    regressor : TorchPolynomialRegressor
    steps : list of Pipeline
        Rows pass through their `transform`, one after another.
    """

    regressor: TorchPolynomialRegressor
    steps: Sequence[Pipeline]

    @classmethod
    def of(cls, estimator: Any) -> FittedModel:
        """Return the regressor that a search or a Pipeline contains.

        Raises
        ------
        TypeError
            If the estimator is of another kind.
        NotFittedError
            If it is not fitted.
        ValueError
            If a search has kept no fitted estimator.
        """
        inner, steps = estimator, []
        while not isinstance(inner, TorchPolynomialRegressor):
            if hasattr(inner, "best_estimator_"):
                inner = inner.best_estimator_
            elif isinstance(inner, BaseSearchCV):
                check_is_fitted(inner)
                raise ValueError(
                    f"The {type(inner).__name__} has no fitted estimator: its 'refit' parameter got {inner.refit!r}. "
                    "Fit it with refit=True."
                )
            elif isinstance(inner, Pipeline):
                if len(inner) > 1:
                    steps.append(inner[:-1])
                inner = inner[-1]
            else:
                where = "" if inner is estimator else f", in which {_called(inner)} stands for the regressor"
                raise TypeError(f"The 'estimator' parameter got {_called(estimator)}{where}. Allowed are {_ALLOWED}.")
        check_is_fitted(inner)
        return cls(inner, steps)

    def rows(self, X: ArrayLike) -> NDArray[Any]:
        """Return rows as the regressor gets them: float32 or float64, of shape (n_samples, n_features)."""
        with overflow_as_value_error():
            return check_points(self.regressor, self._transformed(X))

    def training_rows(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> TrainingRows:
        """Return the rows of positive weight of the fit, with the scaling of the targets that the fit had.

        Raises
        ------
        ValueError
            If they are not the rows of the fit: if the columns have another range, or if there is another
            number of targets.
        """
        polynomial = self.regressor._polynomial
        with overflow_as_value_error():
            X, y = check_rows(self.regressor, self._transformed(X), y, reset=False)
            weights = check_weights(sample_weight, X)[0]
        n_targets, fitted = 1 if y.ndim == 1 else y.shape[1], len(polynomial.targets.scale)
        if n_targets != fitted:
            raise ValueError(f"y_train has {n_targets} targets, and the estimator was fitted with {fitted}.")
        self._check_ranges(X, weights)
        data = TrainingRows(X, y.reshape(len(y), -1), weights, polynomial.targets, None)
        return data.of_positive_weight()

    def _transformed(self, X: Any) -> Any:
        X = to_host_array(X)
        for pipeline in self.steps:
            X = pipeline.transform(X)
        return X

    def _check_ranges(self, X: NDArray[Any], weights: Floats | None) -> None:
        fitted = np.stack([self.regressor._polynomial.low, self.regressor._polynomial.high])
        given = np.stack(column_ranges(X, weights))
        with np.errstate(over="ignore"):
            allowed = _MAX_RANGE_ERROR * (fitted[1] - fitted[0]) + np.finfo(X.dtype).eps * np.abs(fitted).max(axis=0)
            differ = (np.abs(given - fitted) > allowed).any(axis=0)
        if differ.any():
            column = int(differ.argmax())
            names = getattr(self.regressor, "feature_names_in_", None)
            (low, high), (fitted_low, fitted_high) = given[:, column], fitted[:, column]
            raise ValueError(
                f"X_train are not the rows of the fit: in column {column if names is None else names[column]!r} they "
                f"range from {low:.6g} to {high:.6g}, and those of the fit from {fitted_low:.6g} to {fitted_high:.6g}. "
                "Give the rows and weights that fit got."
            )


def check_confidence_level(confidence_level: Any, caller: str) -> None:
    """Raise a ValueError, in scikit-learn's words, if a level is not between 0 and 1."""
    constraints = {"confidence_level": [Interval(Real, 0, 1, closed="neither")]}
    validate_parameter_constraints(constraints, {"confidence_level": confidence_level}, caller)


def check_in_memory(**arguments: Any) -> None:
    """Raise a TypeError if an argument is a Dask collection."""
    for name, values in arguments.items():
        if is_collection(values):
            raise TypeError(
                f"{name!r} is a Dask {type(values).__name__}, and only rows in memory are allowed here. Give "
                f"{name}.compute() if it fits in memory."
            )


def _called(estimator: Any) -> str:
    """Return how messages name an estimator."""
    return (
        f"the class {estimator.__name__}"
        if isinstance(estimator, type)
        else f"an instance of {type(estimator).__name__}"
    )
