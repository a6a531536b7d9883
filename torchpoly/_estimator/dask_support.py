"""Fit, predictions and score of an estimator on Dask collections."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.device import device_or_cpu
from torchpoly._backend.rows import Floats
from torchpoly._backend.sklearn_compat import check_feature_names, check_n_features, has_callbacks
from torchpoly._dask.collections import Columns
from torchpoly._dask.partitions import PartitionedRows, Partitions, predict
from torchpoly._estimator.base import PolynomialBase
from torchpoly._estimator.building import build_from_running_gram
from torchpoly._estimator.callbacks import FitTasks
from torchpoly._estimator.leave_one_out import LeaveOneOutGrid, check_leave_one_out, uses_leave_one_out
from torchpoly._estimator.memory import check_memory
from torchpoly._estimator.overfitting import warn_if_overfitting
from torchpoly._estimator.spec import ModelSpec
from torchpoly._gram.merging import RunningGram
from torchpoly._gram.reading import TrainingRows
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.fitted import Extrapolation, FittedPolynomial
from torchpoly._polynomial.index_set import IndexSet
from torchpoly._train.optimizers import resolve_optimizer

# The parameters of a fit to collections, for which a Gram matrix is enough.
_REQUIRED = {"loss": "squared_error", "batch_size": None, "warm_start": False}


def fit_collections(estimator: PolynomialBase, X: Any, y: Any, sample_weight: Any) -> None:
    """Fit an estimator to Dask collections."""
    optimizer, spec = resolve_optimizer(estimator.optimizer, estimator.lr), estimator._spec()
    for name, needed in _REQUIRED.items():
        value = getattr(estimator, name)
        if value is not needed and value != needed:
            raise ValueError(
                f"The {name!r} parameter got {value!r}, but of Dask collections only the Gram matrix is taken to "
                f"where training runs, which serves {name}={needed!r}. Use that, or give arrays: memory maps are "
                "read chunk by chunk."
            )
    partitions, grid = partitions_of(estimator, X, y, sample_weight, reset=True), None
    if uses_leave_one_out(spec):
        # The values of the columns are not known before they are read, so all columns count with all powers.
        grid = LeaveOneOutGrid.of(spec, spec.with_values(1, 0.0).indices(estimator.n_features_in_))
    tasks = FitTasks(estimator, X, y, sample_weight, 1) if has_callbacks(estimator) else None
    everything = accumulate(spec if grid is None else grid.spec, partitions)
    if grid is not None:
        check_leave_one_out(spec, None, everything.n_rows)
        spec = grid.spec
    if tasks is not None:
        tasks.read_chunk()
    source = partial(PartitionedRows, partitions, everything.n_rows)
    problem = build_from_running_gram(spec, everything, source, grid)
    estimator._train(problem, optimizer, everything.n_rows, partitions.targets.number is None, tasks)
    # To count distinct rows, the workers would have to load all partitions again.
    warn_if_overfitting(estimator, lambda *_: everything.n_rows, stacklevel=4)


def partitions_of(estimator: PolynomialBase, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Partitions:
    """Return the partitions of X with those of y and weights, and record (`reset`) or check the columns of X."""
    columns = _columns(estimator, X, reset=reset)
    return Partitions.of(X, y, sample_weight, columns, estimator.device)


def _columns(estimator: PolynomialBase, X: Any, *, reset: bool) -> Columns:
    """Return the columns of a Dask collection, and record (`reset`) or check their names and number."""
    columns = Columns.of(X, "X")
    check_feature_names(estimator, columns.example, reset=reset)
    check_n_features(estimator, columns.example, reset=reset)
    return columns


def predict_collection(estimator: Any, X: Any, return_std: bool) -> Any:
    """Return the predictions for a Dask collection as a lazy collection, or a tuple with their standard errors."""
    n_targets = None if estimator._single_target else estimator._polynomial.coefficients.shape[1]
    columns = _columns(estimator, X, reset=False)
    mean = predict(X, columns, _values_at(estimator), n_targets)
    if not return_std:
        return mean
    return mean, predict(X, columns, estimator._errors_at(), n_targets)


def score_collections(estimator: PolynomialBase, X: Any, y: Any, sample_weight: Any) -> float:
    """Return ``R2 = 1 - mean((y - f)**2) / var(y)`` on Dask collections, averaged over targets."""
    check_is_fitted(estimator)
    partitions = partitions_of(estimator, X, y, sample_weight, reset=False)
    fitted, given = estimator._polynomial.coefficients.shape[1], partitions.targets.number or 1
    if given != fitted:
        raise ValueError(f"y_true and y_pred have different number of output ({given}!={fitted})")
    values_at = _values_at(estimator)
    constant = Basis(Domain.identity(estimator.n_features_in_), IndexSet(estimator.n_features_in_, degree=0), "power")

    def of_rows(data: TrainingRows, unit: float) -> RunningGram:
        errors = data.Y - values_at(data.X).astype(np.float64)
        with_errors = replace(data, Y=np.hstack([data.Y, errors]))
        return RunningGram.of(constant, with_errors, Box.of(data.X, None)).weighing(unit)

    everything = partitions.reduce(of_rows, add)
    if everything.n_rows < 2:
        warnings.warn("R^2 score is not well-defined with less than two samples.", UndefinedMetricWarning, stacklevel=3)
        return float("nan")
    # The mean squares of y about its mean, and those of the errors about 0.
    scaling, about = everything.targets, np.repeat([0.0, 1.0], fitted)
    squares = everything.statistics.transformed(None, scaling.scale, about * scaling.center).target
    variances, errors = np.split(squares, 2)
    is_constant = variances == 0
    # As in scikit-learn, a constant target has the score 1 if all errors are 0, else 0.
    return float(np.where(is_constant, errors == 0, 1.0 - errors / np.where(is_constant, 1.0, variances)).mean())


def accumulate(spec: ModelSpec, partitions: Partitions) -> RunningGram:
    """Return the Gram matrix of the rows in partitions. Each worker reads its partitions."""

    def checked(box: Box) -> Box:
        check_memory(spec.indices(len(box), box.values), sys.maxsize)
        return box

    def of_rows(data: TrainingRows, unit: float) -> RunningGram:
        box = checked(Box.of(data.X, data.weights))
        return RunningGram.of(spec.basis_for(box), data, box).weighing(unit)

    def merge(one: RunningGram, other: RunningGram) -> RunningGram:
        checked(one.box | other.box)
        return one + other

    return partitions.reduce(of_rows, merge)


def _values_at(estimator: PolynomialBase) -> Callable[[NDArray[Any]], Floats]:
    """Return the function from rows to predictions, which workers run."""
    names = getattr(estimator, "feature_names_in_", None)
    return partial(_predict, estimator._polynomial, estimator.device, estimator._valid_extrapolation(), names)


def _predict(
    polynomial: FittedPolynomial, device: Any, extrapolation: Extrapolation, names: NDArray[Any] | None, X: NDArray[Any]
) -> Floats:
    return polynomial.predict(X, device_or_cpu(device), extrapolation, names)
