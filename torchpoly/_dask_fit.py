"""Fitting to Dask collections, predicting on them, and scoring."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names, _check_n_features, check_is_fitted

from torchpoly._accumulation import Accumulation
from torchpoly._callbacks import FitTasks
from torchpoly._dask import Columns, PartitionedRows, Partitions, predict
from torchpoly._device import device_or_cpu
from torchpoly._domain import Floats
from torchpoly._module import FittedPolynomial
from torchpoly._optimizers import resolve_optimizer
from torchpoly._reading import Data, check_memory

_NEEDED = {"loss": "squared_error", "batch_size": None, "warm_start": False}


class DaskMixin:
    """Adds Dask collections to what the polynomial regressor takes."""

    def _fit_collections(self: Any, X: Any, y: Any, sample_weight: Any) -> None:
        spec, model = resolve_optimizer(self.optimizer, self.lr), self._model()
        for name, needed in _NEEDED.items():
            value = getattr(self, name)
            if value != needed:
                raise ValueError(
                    f"The {name!r} parameter got {value!r}, but of Dask collections only the Gram matrix is taken to "
                    f"where training runs, which serves {name}={needed!r}. Use that, or give arrays: memory maps are "
                    "read chunk by chunk."
                )
        columns = self._columns(X, reset=True)
        check_memory(self.degree, sys.maxsize, columns.number, self.interaction_only)
        partitions = Partitions.of(X, y, sample_weight, columns, self.device)
        tasks = FitTasks(self, X, y, sample_weight, 1) if getattr(self, "_skl_callbacks", None) else None

        counted = partitions.reduce(partial(_accumulate, model), _add_counted)
        if counted is None:
            raise ValueError(f"None of the {len(partitions.parts)} partitions has a row of positive weight.")
        if tasks is not None:
            tasks.read_chunk()
        n_rows, everything = counted
        problem = everything.pose(model, partial(PartitionedRows, partitions, n_rows))
        self._train(problem, spec, n_rows, np.ndim(y) == 1, tasks)

    def _columns(self: Any, X: Any, *, reset: bool) -> Columns:
        """Return the columns of X as a Dask collection tells them; record or check their names and number."""
        columns = Columns.of(X)
        _check_feature_names(self, columns.example, reset=reset)
        _check_n_features(self, columns.example, reset=reset)
        return columns

    def _predict_collection(self: Any, X: Any) -> Any:
        values_at = partial(_values_at, self._polynomial, self.device, self.extrapolation)
        n_targets = None if self._single_target else self._polynomial.coefficients.shape[1]
        return predict(X, self._columns(X, reset=False), values_at, n_targets)

    def _score_collections(self: Any, X: Any, y: Any, sample_weight: Any) -> float:
        check_is_fitted(self)
        partitions = Partitions.of(X, y, sample_weight, self._columns(X, reset=False), self.device)
        values_at = partial(_values_at, self._polynomial, self.device, self.extrapolation)
        moments = partitions.reduce(partial(_moments, values_at), add)
        if moments is None:
            raise ValueError(f"None of the {len(partitions.parts)} partitions has a row of positive weight.")
        return moments.r2


def _accumulate(model: Any, data: Data, unit: float) -> tuple[int, Accumulation]:
    return data.n_rows, Accumulation.of(model, data).weighing(unit)


def _add_counted(one: tuple[int, Accumulation], other: tuple[int, Accumulation]) -> tuple[int, Accumulation]:
    return one[0] + other[0], one[1] + other[1]


def _values_at(polynomial: FittedPolynomial, device: Any, extrapolation: str, X: NDArray) -> Floats:
    return polynomial.predict(X, device_or_cpu(device), extrapolation)


def _moments(values_at: Any, data: Data, unit: float) -> Moments:
    return Moments.of(data.Y, values_at(data.X), data.weights, unit)


@dataclass(frozen=True)
class Moments:
    """What the coefficient of determination needs of some rows.

    Parameters
    ----------
    weight : float
        Sum of the weights.
    mean : ndarray of shape (n_targets,)
    squares : ndarray of shape (n_targets,)
        Weighted sum of squares about the mean.
    residuals : ndarray of shape (n_targets,)
        Weighted sum of squares of the residuals.
    """

    weight: float
    mean: Floats
    squares: Floats
    residuals: Floats

    @classmethod
    def of(cls, Y: NDArray, predictions: NDArray, weights: Floats | None, unit: float) -> Moments:
        """Take them of rows whose weights are relative to a unit."""
        shares = np.full(len(Y), unit) if weights is None else unit * weights
        mean = np.average(Y, axis=0, weights=shares)
        return cls(shares.sum(), mean, shares @ (Y - mean) ** 2, shares @ (Y - predictions) ** 2)

    def __add__(self, other: Moments) -> Moments:
        weight = self.weight + other.weight
        difference = other.mean - self.mean
        between = difference**2 * (self.weight * other.weight / weight)
        mean = self.mean + difference * (other.weight / weight)
        return Moments(weight, mean, self.squares + other.squares + between, self.residuals + other.residuals)

    @property
    def r2(self) -> float:
        """The coefficient of determination, averaged over targets; of constant targets 1 or 0, as in scikit-learn."""
        constant = self.squares == 0
        ratio = self.residuals / np.where(constant, 1.0, self.squares)
        return float(np.where(constant, self.residuals == 0, 1.0 - ratio).mean())
