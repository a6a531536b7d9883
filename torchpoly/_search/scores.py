"""Scores of many polynomials: from Gram matrices by formulas, or from predictions by scikit-learn's scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

from torchpoly._backend.rows import Floats
from torchpoly._backend.sklearn_compat import (
    MultimetricScorer,
    PassthroughScorer,
    Scorer,
    check_method_params,
    safe_indexing,
    safe_split,
    score,
)
from torchpoly._gram.statistics import GramStatistics
from torchpoly._polynomial.fitted import PolynomialFamily

# Predictions take at most 8 MiB at a time: each product evaluates as many polynomials as fit.
_MAX_PREDICTIONS = 2**20
# A variance is a mean square minus a squared mean. If it is 1e-5 of the mean square, the subtraction
# loses 5 of 16 digits.
_MIN_SCORE_VARIANCE = 1e-5
# A mean squared error is a difference of larger terms. If it is 1e-6 of their bound, it has about 8
# correct digits.
_MAX_CANCELLATION = 1e-6

# A metric as a function of mean squared errors (n_polynomials x n_targets), and of the variances and
# scales of the targets.
Formula = Callable[[Floats, Floats, Floats], Floats]

_FORMULAS: dict[Any, Formula] = {
    r2_score: lambda errors, variances, units: (1.0 - errors / variances).mean(axis=1),
    mean_squared_error: lambda errors, variances, units: (errors * units**2).mean(axis=1),
    root_mean_squared_error: lambda errors, variances, units: (np.sqrt(errors) * units).mean(axis=1),
}

# Metrics of test sets of one row each, as functions of absolute errors (n_rows x n_targets).
_SINGLE_ROW_FORMULAS: dict[Any, Callable[[Floats], Floats]] = {
    r2_score: lambda errors: np.full(len(errors), np.nan),
    mean_squared_error: lambda errors: np.square(errors).mean(axis=1),
    root_mean_squared_error: lambda errors: errors.mean(axis=1),
    mean_absolute_error: lambda errors: errors.mean(axis=1),
}


class _Predicted(RegressorMixin, BaseEstimator):
    """A regressor that returns given predictions.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples,) or (n_samples, n_targets)
    """

    def __init__(self, predictions: NDArray[Any]) -> None:
        self.predictions = predictions

    def fit(self, X: Any, y: Any) -> _Predicted:
        """Do nothing."""
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the given predictions."""
        return self.predictions


@dataclass(frozen=True)
class Scoring:
    """The scorer of a search with its data.

    Parameters
    ----------
    scorer : callable
        What scikit-learn's searches make of their parameter `scoring`.
    X, y : array-like
        The data as the user passed them.
    params : dict
        Metadata for the scorer.
    training_weights : array-like or None
        Weights of the rows in training.
    error_score : float or "raise"
    """

    scorer: Any
    X: Any
    y: Any
    params: dict[str, Any]
    training_weights: Any
    error_score: float | str

    @property
    def needs_estimators(self) -> bool:
        """Whether a metric may use more of an estimator than its predictions."""
        return not all(map(_uses_predictions_only, self._scorers.values()))

    def of_estimator(self, estimator: Any, rows: NDArray[np.intp], training: NDArray[np.intp] | None = None) -> Any:
        """Return the scores of a fitted estimator on some rows."""
        X, y = safe_split(estimator, self.X, self.y, rows, training)
        return score(estimator, X, y, self.scorer, self._params(rows), self.error_score)

    def of_polynomials(
        self,
        polynomials: PolynomialFamily,
        X: NDArray[Any],
        rows: NDArray[np.intp],
        statistics: GramStatistics | None = None,
    ) -> list[Any]:
        """Return the scores of each polynomial on some rows.

        Parameters
        ----------
        polynomials : PolynomialFamily
        X : ndarray of shape (n_samples, n_features)
            Rows after the steps of a pipeline.
        rows : ndarray of shape (n_samples,)
            Indices of the same rows in the data of the user.
        statistics : GramStatistics, optional
            Statistics of these rows, with the basis and the targets of the polynomials.
        """
        scores: list[Any] = [None] * polynomials.coefficients.shape[1]
        if statistics is not None:
            self._score_squares(scores, polynomials, X, statistics)
        left = np.array([index for index, score in enumerate(scores) if score is None], dtype=np.intp)
        y, params = safe_indexing(self.y, rows), self._params(rows)
        step = max(1, _MAX_PREDICTIONS // len(X))
        for start in range(0, len(left), step):
            chosen = left[start : start + step]
            for index, values in zip(chosen, polynomials.predict(X, chosen), strict=True):
                predicted = _Predicted(values[:, 0] if np.ndim(y) == 1 else values)
                scores[index] = score(predicted, X, y, self.scorer, params, self.error_score)
        return scores

    def of_single_rows(self, predictions: NDArray[Any], rows: NDArray[np.intp]) -> list[Any]:
        """Return the scores of predictions for test sets of one row each.

        Parameters
        ----------
        predictions : ndarray of shape (n, n_targets)
        rows : ndarray of int of shape (n,)
            Indices of the test rows in the data of the user.
        """
        y = safe_indexing(self.y, rows)
        single_target = np.ndim(y) == 1

        def scored(position: int) -> Any:
            row = slice(position, position + 1)
            predicted = _Predicted(predictions[row, 0] if single_target else predictions[row])
            return score(
                predicted,
                predictions[row],
                safe_indexing(y, [position]),
                self.scorer,
                self._params(rows[row]),
                self.error_score,
            )

        formulas = {name: _formula(scorer, _SINGLE_ROW_FORMULAS) for name, scorer in self._scorers.items()}
        weights = np.asarray(self._params(rows).get("sample_weight", np.ones(len(rows))))
        # A positive weight does not change the score of a single row.
        change_nothing = weights.shape == rows.shape and np.all((weights > 0) & (weights < np.inf))
        if None in formulas.values() or set(self.params) - {"sample_weight"} or not change_nothing:
            return [scored(position) for position in range(len(rows))]
        errors = np.abs(np.reshape(np.asarray(y, dtype=np.float64), predictions.shape) - predictions)
        values = {name: formula(errors).tolist() for name, formula in formulas.items() if formula}
        every = [dict(zip(values, of_row, strict=True)) for of_row in zip(*values.values(), strict=True)]
        if any(np.isnan(of_metric).any() for of_metric in values.values()):
            scored(0)  # scikit-learn's warning of scores that are not defined
        return every if isinstance(self.scorer, MultimetricScorer) else [of_row[""] for of_row in every]

    def is_undefined_for(self, splits: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> bool:
        """Whether all test sets have one row, for which R2 is not defined."""
        return any(map(_is_r2, self._scorers.values())) and all(len(test) == 1 for _, test in splits)

    def _params(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        return check_method_params(self.X, params=self.params, indices=rows)

    def _score_squares(
        self, scores: list[Any], polynomials: PolynomialFamily, X: NDArray[Any], statistics: GramStatistics
    ) -> None:
        """Write the scores that follow from mean squared errors without cancellation into a list."""
        formulas = self._formulas
        # A single row has no variance. Predictions for float32 are rounded, so these scores need them.
        if formulas is None or not self._weighs_as_training or len(X) < 2 or X.dtype != np.float64:
            return
        variances = statistics.target - np.square(statistics.cross[0])
        if not (variances > _MIN_SCORE_VARIANCE * statistics.target).all():
            return
        errors, exact = _mean_squared_errors(statistics, polynomials.coefficients)
        chosen, units = np.flatnonzero(exact), polynomials.targets.scale
        values = {name: formula(errors[chosen], variances, units).tolist() for name, formula in formulas.items()}
        for position, index in enumerate(chosen):
            every = {name: scored[position] for name, scored in values.items()}
            scores[index] = every if isinstance(self.scorer, MultimetricScorer) else every[""]

    @property
    def _weighs_as_training(self) -> bool:
        """Whether scores have the weights of training. With metadata routing, each metric may have its own weights."""
        weights = self.params.get("sample_weight")
        may_differ = isinstance(self.scorer, MultimetricScorer) and get_config()["enable_metadata_routing"]
        same = weights is self.training_weights and not np.isscalar(weights)
        return same and not (may_differ and self.params)

    @property
    def _scorers(self) -> dict[str, Any]:
        """The metrics by name. A single metric has the name ""."""
        return self.scorer._scorers if isinstance(self.scorer, MultimetricScorer) else {"": self.scorer}

    @cached_property
    def _formulas(self) -> dict[str, Formula] | None:
        """The formulas of the metrics by name; None if a metric has no formula."""
        known = {name: _formula(scorer, _FORMULAS) for name, scorer in self._scorers.items()}
        return None if None in known.values() else {name: formula for name, formula in known.items() if formula}


def _mean_squared_errors(statistics: GramStatistics, coefficients: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return ``mean((F c - y)**2) = c'Gc - 2 c'b + mean(y**2)``, and whether it is free of cancellation.

    Parameters
    ----------
    statistics : GramStatistics
        Statistics in the basis of the coefficients.
    coefficients : ndarray of shape (n_terms, n_polynomials, n_targets)

    Returns
    -------
    errors : ndarray of shape (n_polynomials, n_targets)
        Mean squared errors of the scaled targets.
    exact : ndarray of bool of shape (n_polynomials,)
    """
    gram = cast(Floats, statistics.features)
    products = (gram @ coefficients.reshape(len(gram), -1)).reshape(coefficients.shape)
    errors = statistics.target + (coefficients * (products - 2.0 * statistics.cross[:, None])).sum(axis=0)
    # By Cauchy's inequality, no partial sum exceeds this bound.
    sizes = np.tensordot(np.sqrt(np.diagonal(gram)), np.abs(coefficients), 1)
    greatest = np.square(np.sqrt(statistics.target) + sizes)
    return errors, (errors > _MAX_CANCELLATION * greatest).all(axis=1)


def _uses_predictions_only(scorer: Any) -> bool:
    is_prediction_scorer = isinstance(scorer, Scorer) and scorer._response_method == "predict"
    return is_prediction_scorer or isinstance(scorer, PassthroughScorer)


def _is_r2(scorer: Any) -> bool:
    return isinstance(scorer, PassthroughScorer) or getattr(scorer, "_score_func", None) is r2_score


def _formula(scorer: Any, formulas: dict[Any, Any]) -> Any:
    """Return the score as a function of the arguments of the formulas; None if its metric is not among them."""
    if isinstance(scorer, PassthroughScorer):
        return formulas[r2_score]
    if not _uses_predictions_only(scorer) or scorer._kwargs:
        return None
    formula = formulas.get(scorer._score_func)
    return None if formula is None else lambda *arguments: scorer._sign * formula(*arguments)
