"""The rows of cross-validation splits, before or after the steps of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from torchpoly._backend.device import Device
from torchpoly._backend.sklearn_compat import check_method_params, safe_split
from torchpoly._backend.validation import check_rows, check_weights
from torchpoly._estimator.overfitting import warn_if_overfitting
from torchpoly._estimator.regressor import TorchPolynomialRegressor
from torchpoly._estimator.spec import ModelSpec
from torchpoly._gram.reading import TrainingRows, fits_one_chunk
from torchpoly._gram.target_statistics import mean_and_deviation
from torchpoly._polynomial.box import Box
from torchpoly._search.candidates import Candidate
from torchpoly._search.splits import Split, SplitBatch, SplitGram, read_split, read_splits

# The transformed rows of the splits that are evaluated at a time take at most about 256 MiB. This is a
# choice, not a measurement.
_MAX_TRANSFORMED_BYTES = 2**28


@dataclass(frozen=True)
class SplitRows:
    """The training and test rows of one split, after the steps of a pipeline if there are any.

    Parameters
    ----------
    split : tuple of ndarray of int
        Indices of the training rows and of the test rows in the data of the user.
    data : TrainingRows
        Rows that contain those of the split.
    places : tuple of ndarray of int
        Indices of the training rows and of the test rows in `data`.
    single_target : bool
        Whether y has one dimension.
    complete : callable
        It takes a trained regressor and returns the fitted estimator of the user, for example a Pipeline.
    X_scored : ndarray or None
        X of the training rows for their scores, if it differs from X in training.
    """

    split: Split
    data: TrainingRows
    places: Split
    single_target: bool
    complete: Callable[[TorchPolynomialRegressor], Any]
    X_scored: NDArray[Any] | None = None

    @property
    def training(self) -> TrainingRows:
        return self.data.of_rows(self.places[0])

    @property
    def test(self) -> TrainingRows:
        return self.data.of_rows(self.places[1])


class SplitSource:
    """The rows of some splits, where each split has its own transformed rows.

    Parameters
    ----------
    rows : dict of int to SplitRows
        The rows by the index of the split.

    Attributes
    ----------
    n_features : int
        Greatest number of columns of X in a split.
    fewest_rows : int
        Number of training rows of the smallest split.
    box : Box or None
        The ranges of the columns over all rows; None if each split has its own rows.
    """

    box: Box | None = None

    def __init__(self, rows: dict[int, SplitRows]) -> None:
        self.rows = rows
        self.n_features = max(one.data.X.shape[1] for one in rows.values())
        self.fewest_rows = min(len(one.split[0]) for one in rows.values())

    def split_grams(self, spec: ModelSpec, device: Device) -> Iterator[tuple[int, SplitGram | None]]:
        """Yield each split with its statistics up to the degree of a spec.

        The statistics are None if the training rows or the test rows have no positive weight.
        """
        for split, rows in self.rows.items():
            training, test = (replace(data, device=device) for data in (rows.training, rows.test))
            yield split, read_split(spec, training, test)


class PlainSource(SplitSource):
    """The rows of splits without a pipeline, which share one array.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor
    X, y : array-like
    sample_weight : array-like or None
    splits : list of tuple of ndarray of int

    Raises
    ------
    ValueError
        If the data are invalid for the estimator.
    """

    box: Box

    def __init__(
        self,
        estimator: TorchPolynomialRegressor,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        splits: Sequence[Split],
    ) -> None:
        self._template = clone(estimator)
        X, y = check_rows(self._template, X, y)
        weights, self._weight_unit = check_weights(sample_weight, X)
        Y = y.reshape(len(y), -1)
        self.data = data = TrainingRows(X, Y, weights, mean_and_deviation(Y, weights), None)
        self.box = Box.of(X, weights)
        self.single_target = y.ndim == 1
        self._complete_batches: dict[tuple[object, ...], SplitBatch] = {}
        super().__init__(
            {
                number: SplitRows(split, data, split, self.single_target, self._complete)
                for number, split in enumerate(splits)
            }
        )

    def restricted(self, numbers: Iterable[int]) -> PlainSource:
        """Return the same rows with some of the splits."""
        source = copy(self)
        source.rows = {number: self.rows[number] for number in numbers}
        return source

    def _complete(self, estimator: TorchPolynomialRegressor) -> TorchPolynomialRegressor:
        estimator.__dict__.update(_column_attributes(self._template))
        return estimator

    def split_grams(self, spec: ModelSpec, device: Device) -> Iterator[tuple[int, SplitGram | None]]:
        """Read the rows once for all splits, and yield each split with its statistics."""
        numbers = list(self.rows)
        for batch in read_splits(
            spec, replace(self.data, device=device), [self.rows[number].split for number in numbers]
        ):
            for split in batch.splits:
                yield numbers[split], batch.split_gram(split)
            if batch.covers_all_rows:
                self._complete_batches[*spec.family, device] = batch

    def fit_on_all_rows(self, estimator: TorchPolynomialRegressor, candidate: Candidate) -> bool:
        """Fit a candidate to all rows from their Gram matrix, and return whether that was possible.

        It is not possible if no batch of splits covers all rows, or if a fit reads the rows more than once.
        """
        spec, data = candidate.spec, self.data
        batch = self._complete_batches.get((*spec.family, candidate.device))
        if batch is None:
            return False
        # If all rows fit one chunk, a fit refines the optimum of their Gram matrix at the rows.
        n_terms = batch.common.of_degree(spec.degree).n_terms
        in_one_chunk = fits_one_chunk(data.n_rows, n_terms + data.Y.shape[1])
        everything = None if in_one_chunk else batch.everything()
        problem = None if everything is None else everything.build_problem(spec)
        if problem is None:
            return False
        estimator._train(problem, candidate.optimizer, data.n_rows, self.single_target, weight_unit=self._weight_unit)
        self._complete(estimator)
        warn_if_overfitting(estimator, data.count_points, stacklevel=6)
        return True


def transformed_sources(
    pipeline: Pipeline,
    X: ArrayLike,
    y: ArrayLike,
    fit_params: dict[str, Any],
    splits: Sequence[Split],
    *,
    scores_training: bool,
    failed: Callable[[list[int], Exception], object],
) -> Iterator[SplitSource]:
    """Fit the first steps of a pipeline to each split, and yield the transformed rows of several splits at a time.

    Parameters
    ----------
    pipeline : Pipeline
        The pipeline with the candidates' parameters of its first steps.
    X, y : array-like
    fit_params : dict
        Metadata for the steps.
    splits : list of tuple of ndarray of int
    scores_training : bool
        Whether the search scores the training rows too.
    failed : callable
        It is called with the splits for which a step raised an exception, and with the exception.
    """
    held: dict[int, SplitRows] = {}
    n_bytes = 0
    for index, split in enumerate(splits):
        try:
            rows = _transform(pipeline, X, y, fit_params, split, scores_training)
        except Exception as error:  # a user's steps can raise any exception
            failed([index], error)
            continue
        held[index] = rows
        n_bytes += 2 * rows.data.X.nbytes  # `training` and `test` copy the rows
        if n_bytes > _MAX_TRANSFORMED_BYTES:
            yield SplitSource(held)
            held, n_bytes = {}, 0
    if held:
        yield SplitSource(held)


def _transform(
    pipeline: Pipeline, X: Any, y: Any, fit_params: dict[str, Any], split: Split, scores_training: bool
) -> SplitRows:
    """Fit the first steps of a pipeline to the training rows of a split, and return the transformed rows."""
    steps, (name, last), memory = pipeline.steps[:-1], pipeline.steps[-1], pipeline.memory
    training, test = split
    params = check_method_params(X, params=fit_params, indices=training)
    sample_weight = params.pop(f"{name}__sample_weight", None)
    X_test, y_test = safe_split(pipeline, X, y, test, training)
    X, y = safe_split(pipeline, X, y, training)
    X_scored = None
    if steps:
        first, X_given = clone(Pipeline(steps, memory=memory)), X
        X = first.fit_transform(X, y, **params)
        steps = first.steps
        X_test = _transform_by(steps, X_test)
        # Some steps, such as TargetEncoder, transform the rows of `fit` differently in fit_transform.
        X_scored = _transform_by(steps, X_given) if scores_training else None
    template = clone(last)
    X, y = check_rows(template, X, y)
    X_test, y_test = check_rows(template, X_test, y_test, reset=False)
    if X_scored is not None:
        X_scored, _ = check_rows(template, X_scored, y, reset=False)
        X_scored = None if np.array_equal(X_scored, X) else X_scored
    weights = None
    if sample_weight is not None:
        # The test rows have weights of 1. Their scores do not come from Gram matrices.
        weights = np.r_[check_weights(sample_weight, X)[0], np.ones(len(X_test))]

    def complete(estimator: TorchPolynomialRegressor) -> Pipeline:
        estimator.__dict__.update(_column_attributes(template))
        return Pipeline([*steps, (name, estimator)], memory=memory)

    places = np.arange(len(X)), np.arange(len(X), len(X) + len(X_test))
    data = TrainingRows.unscaled(np.concatenate([X, X_test]), np.concatenate([y, y_test]), weights, None)
    return SplitRows(split, data, places, y.ndim == 1, complete, X_scored)


def _transform_by(steps: list[tuple[str, Any]], X: Any) -> Any:
    """Return the rows after fitted steps.

    Pipeline.transform does the same, but raises if its last step has no fitted attributes.
    """
    for _, step in steps:
        if step not in (None, "passthrough"):
            X = step.transform(X)
    return X


def _column_attributes(template: TorchPolynomialRegressor) -> dict[str, Any]:
    """Return ``n_features_in_`` and ``feature_names_in_``, which validation has set on a template."""
    return {name: value for name, value in vars(template).items() if name.endswith("_")}
