"""`partial_fit`: fitting to rows in several calls, from the sum of their Gram matrices."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any, Self
from weakref import WeakKeyDictionary

from numpy.typing import ArrayLike
from scipy.linalg import LinAlgWarning

from torchpoly._backend.array_api import namespace_of
from torchpoly._backend.device import resolve_device_with_warning
from torchpoly._backend.sklearn_compat import available_if, fit_context
from torchpoly._backend.torch_state import default_torch_state, rollback_on_error
from torchpoly._backend.validation import check_rows, check_weights
from torchpoly._dask.collections import is_collection
from torchpoly._dask.partitions import PartitionedRows
from torchpoly._estimator.base import PolynomialBase
from torchpoly._estimator.building import build_from_running_gram
from torchpoly._estimator.dask_support import accumulate, partitions_of
from torchpoly._estimator.leave_one_out import check_numbers
from torchpoly._estimator.memory import check_memory
from torchpoly._estimator.spec import ModelSpec
from torchpoly._gram.merging import RunningGram
from torchpoly._gram.reading import TrainingRows
from torchpoly._gram.source import Source
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.index_set import IndexSet
from torchpoly._polynomial.target_scaling import TargetScaling
from torchpoly._train.optimizers import resolve_optimizer


def _keeps_gram_matrices(estimator: Any) -> bool:
    """Return True if training needs only a Gram matrix, or raise an AttributeError with advice."""
    for name, needed in [("loss", "squared_error"), ("batch_size", None)]:
        value = getattr(estimator, name)
        if value is not needed and value != needed:
            raise AttributeError(
                f"The {name!r} parameter got {value!r}, but partial_fit keeps only the Gram matrix of the rows, which "
                f"serves {name}={needed!r}. Use that, or fit on all rows."
            )
    return True


# One lock for each estimator. Two threads that add rows at the same time would lose the rows of one of them.
_LOCKS: WeakKeyDictionary[Any, RLock] = WeakKeyDictionary()
if hasattr(os, "register_at_fork"):
    # A lock that another thread held at the time of the fork would stay locked in the child process.
    os.register_at_fork(after_in_child=_LOCKS.clear)


class PartialFit(PolynomialBase):
    """Fitting to rows in several calls."""

    @available_if(_keeps_gram_matrices)
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to these rows and all earlier rows.

        The earlier rows are those of the last call of :meth:`fit` and of all later calls of this method.
        The polynomial is that of one fit to all these rows. It does not depend on their order or on how
        they were divided, up to rounding. The estimator keeps only the Gram matrix of the rows. If later
        rows are outside the range of the earlier ones, the matrix is changed to the new range exactly.
        Several threads can call this method on one estimator. The calls run one after another.

        ``residual_std_`` and all standard errors come from the Gram matrix, as the rows are not there any more. If the
        residuals are below about 1e-6 of the spread of y, they have few digits. :meth:`fit` reads the rows again then.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            One row or more, with the columns of the earlier rows.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Values of the same targets as in the earlier rows.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. They are compared with those of the earlier rows. ``None`` means weights of 1.

        Returns
        -------
        TorchPolynomialRegressor
            The estimator itself.

        Raises
        ------
        AttributeError
            If the loss is not the squared error, or `batch_size` is set. The method does not exist then.
        ValueError
            If `degree` or `alpha` is ``"loo"``; if `degree`, `basis`, `interaction_only`, columns or targets
            differ from those of the earlier rows; if the last fit kept no Gram matrix, because it had another loss
            or many terms, or because it was loaded from a file; or for the reasons of :meth:`fit`. The estimator
            is then unchanged.

        Warns
        -----
        ConvergenceWarning
            If `n_iter` iterations end before `tol` is met.
        LinAlgWarning
            If the Gram matrix is ill-conditioned, with a condition number above about 1e10, or if terms
            are dependent in it that are independent on the rows. :meth:`fit` on all rows is more accurate,
            because it can read the rows again.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> model = TorchPolynomialRegressor(degree=2).partial_fit([[0.0], [1.0]], [0.0, 1.0])
        >>> model.partial_fit([[2.0], [3.0]], [4.0, 9.0]).equation()
        'y = 1*x0**2'
        """
        self._validate_if_skipped()
        with _LOCKS.setdefault(self, RLock()), default_torch_state(), rollback_on_error(self):
            self._partial_fit(X, y, sample_weight)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> None:
        optimizer, spec = resolve_optimizer(self.optimizer, self.lr), self._spec()
        check_numbers(spec)
        namespace = None if is_collection(X) else namespace_of(X)
        so_far: RunningGram | None = getattr(self, "_running_gram", None) or getattr(self, "_read", None)
        if so_far is None and hasattr(self, "_polynomial"):
            raise ValueError(
                "partial_fit cannot go on from this fit, of which there is no Gram matrix: its loss was not the "
                "squared error, the matrix was too large to keep, or it is a copy or from a file. Start anew with "
                "sklearn.base.clone(model).partial_fit."
            )
        rows, source, single_target = self._accumulate(spec, X, y, sample_weight, so_far)
        parts, everything = ([rows], rows) if so_far is None else ([so_far, rows], so_far + rows)
        if spec.needs_well_conditioned:
            everything = everything.with_lost_terms(parts, source)
        if spec.needs_well_conditioned and everything.is_ill_conditioned:
            warnings.warn(
                "The Gram matrix is ill-conditioned, as columns are heavy-tailed, nearly coincide, or vary far less in "
                "some batches than in all: partial_fit loses digits or terms that fit on all rows, which it reads "
                "again, keeps. Use fit, a lower 'degree', or an 'alpha'.",
                LinAlgWarning,
                stacklevel=4,
            )
        self._train(build_from_running_gram(spec, everything), optimizer, everything.n_rows, single_target)
        self._running_gram, self._namespace = everything, namespace
        self.__dict__.pop("_read", None)

    def _accumulate(
        self, spec: ModelSpec, X: Any, y: Any, sample_weight: Any, so_far: RunningGram | None
    ) -> tuple[RunningGram, Callable[[TargetScaling], Source], bool]:
        """Return the Gram matrix of these rows, a function that returns the rows, and whether y has one dimension."""
        reset = so_far is None
        if is_collection(X, y, sample_weight):
            partitions = partitions_of(self, X, y, sample_weight, reset=reset)
            self._check_same_terms(so_far, spec, partitions.targets.number)
            rows = accumulate(spec, partitions)
            source = partial(PartitionedRows, partitions, rows.n_rows)
            return rows, source, partitions.targets.number is None
        device = resolve_device_with_warning(self._device_for(X), stacklevel=5)
        X, y = check_rows(self, X, y, reset=reset)
        weights, unit = check_weights(sample_weight, X)
        box = Box.of(X, weights)
        everything = box if so_far is None else box | so_far.box
        check_memory(spec.indices(len(box), everything.values), sys.maxsize)
        self._check_same_terms(so_far, spec, None if y.ndim == 1 else y.shape[1])
        data = TrainingRows.unscaled(X, y, weights, device).of_positive_weight()
        rows = RunningGram.of(spec.basis_for(box), data, box).weighing(unit)
        return rows, lambda targets: replace(data, targets=targets), y.ndim == 1

    def _check_same_terms(self, so_far: RunningGram | None, spec: ModelSpec, n_targets: int | None) -> None:
        """Raise a ValueError if terms or targets differ from those of the earlier rows."""
        if so_far is None:
            return
        before, now = so_far.basis, spec.basis_for(so_far.box)
        names = [name for name in IndexSet.parameters if getattr(before.indices, name) != getattr(now.indices, name)]
        for name in names if before.family == now.family else ["basis"]:
            options = ", ".join(f"{option}={getattr(before.indices, option)}" for option in IndexSet.parameters)
            raise ValueError(
                f"The {name!r} parameter got {getattr(self, name)!r}, but the Gram matrix of the rows before is that "
                f"of another (its terms are {before.family} polynomials with {options}). Set it back, or start anew "
                "with sklearn.base.clone(model).partial_fit."
            )
        n_before = None if self._single_target else so_far.statistics.cross.shape[1]
        if n_targets != n_before:
            now_has = "one dimension" if n_targets is None else f"{n_targets} columns"
            shape = "(n_samples,)" if n_before is None else f"(n_samples, {n_before})"
            raise ValueError(
                f"y has {now_has}, but before it was of shape {shape}. Give the same targets, or start anew with "
                "sklearn.base.clone(model).partial_fit."
            )
