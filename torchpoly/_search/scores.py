"""What scikit-learn's scorers make of polynomials, from mean squared errors or from predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import mean_squared_error, r2_score, root_mean_squared_error

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

# Predictions for as many polynomials are held at a time as make so many values.
_MAX_PREDICTIONS = 2**20
# Variances so small beside mean squares have lost digits.
_MIN_SCORE_VARIANCE = 1e-5
# Values so many times smaller than what they are the difference of have 8 digits.
_MAX_CANCELLATION = 1e-6

# Of mean squared errors of shape (n_polynomials, n_targets), and variances and units of the targets.
Formula = Callable[[Floats, Floats, Floats], Floats]

_FORMULAS: dict[Any, Formula] = {
    r2_score: lambda errors, variances, units: (1.0 - errors / variances).mean(axis=1),
    mean_squared_error: lambda errors, variances, units: (errors * units**2).mean(axis=1),
    root_mean_squared_error: lambda errors, variances, units: (np.sqrt(errors) * units).mean(axis=1),
}


class _Predicted(RegressorMixin, BaseEstimator):
    """A regressor that has predicted already.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples,) or (n_samples, n_targets)
    """

    def __init__(self, predictions: NDArray) -> None:
        self.predictions = predictions

    def fit(self, X: Any, y: Any) -> _Predicted:
        """Learn nothing."""
        return self

    def predict(self, X: Any) -> NDArray:
        """Return the predictions."""
        return self.predictions


@dataclass(frozen=True)
class Scoring:
    """How a search scores.

    Parameters
    ----------
    scorer : callable
        As scikit-learn's searches make it of `scoring`.
    X, y : array-like
        As the user gave them.
    params : dict
        Metadata for the scorer.
    training_weights : array-like or None
        Of the rows in training.
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
        """Whether the scorer may look at more than predictions."""
        return not all(map(_uses_predictions_only, self._scorers.values()))

    def of_estimator(self, estimator: Any, rows: NDArray[np.intp], training: NDArray[np.intp] | None = None) -> Any:
        """Return the scores of a fitted estimator on some rows."""
        X, y = safe_split(estimator, self.X, self.y, rows, training)
        return score(estimator, X, y, self.scorer, self._params(rows), self.error_score)

    def of_polynomials(
        self,
        polynomials: PolynomialFamily,
        X: NDArray,
        rows: NDArray[np.intp],
        statistics: GramStatistics | None = None,
    ) -> list[Any]:
        """Return the scores of each polynomial on some rows.

        Parameters
        ----------
        polynomials : PolynomialFamily
        X : ndarray of shape (n_samples, n_features)
            What they are evaluated at.
        rows : ndarray of shape (n_samples,)
            Which rows of the user's these are.
        statistics : GramStatistics, optional
            Of these rows, in the basis and for the targets of the polynomials.
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

    def _params(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        return check_method_params(self.X, params=self.params, indices=rows)

    def _score_squares(
        self, scores: list[Any], polynomials: PolynomialFamily, X: NDArray, statistics: GramStatistics
    ) -> None:
        """Write the scores that mean squared errors give with all their digits."""
        formulas = self._formulas
        # Of a single row there is no variance; predictions in single precision are rounded.
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
        """Whether scores weigh rows as training does: where metadata are routed, each scorer may have its own."""
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
        """What the scorer computes from mean squared errors, by name, "" for a single one; None if it needs more."""
        known = {name: _formula(scorer) for name, scorer in self._scorers.items()}
        return None if None in known.values() else {name: formula for name, formula in known.items() if formula}


def _mean_squared_errors(statistics: GramStatistics, coefficients: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how far polynomials are from the targets, and whether that has kept its digits.

    Parameters
    ----------
    statistics : GramStatistics
        In the basis of the coefficients.
    coefficients : ndarray of shape (n_terms, n_polynomials, n_targets)

    Returns
    -------
    errors : ndarray of shape (n_polynomials, n_targets)
        Mean squared errors, in squared units of the statistics.
    exact : ndarray of bool of shape (n_polynomials,)
    """
    gram = cast(Floats, statistics.features)
    products = (gram @ coefficients.reshape(len(gram), -1)).reshape(coefficients.shape)
    errors = statistics.target + (coefficients * (products - 2.0 * statistics.cross[:, None])).sum(axis=0)
    # By Cauchy's inequality, no sum of absolute values on the way is greater than this.
    sizes = np.tensordot(np.sqrt(np.diagonal(gram)), np.abs(coefficients), 1)
    greatest = np.square(np.sqrt(statistics.target) + sizes)
    return errors, (errors > _MAX_CANCELLATION * greatest).all(axis=1)


def _uses_predictions_only(scorer: Any) -> bool:
    is_prediction_scorer = isinstance(scorer, Scorer) and scorer._response_method == "predict"
    return is_prediction_scorer or isinstance(scorer, PassthroughScorer)


def _formula(scorer: Any) -> Formula | None:
    if isinstance(scorer, PassthroughScorer):
        return _FORMULAS[r2_score]
    if not _uses_predictions_only(scorer) or scorer._kwargs:
        return None
    formula = _FORMULAS.get(scorer._score_func)
    return None if formula is None else lambda *squares: scorer._sign * formula(*squares)
