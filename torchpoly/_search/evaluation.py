"""Training and scores of candidates on the fast path, and the reasons why other fits fall back.

A fit is a pair of the index of a candidate and the index of a split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice, product
from time import perf_counter
from typing import Any

import numpy as np
from sklearn.base import clone

from torchpoly._backend.rows import Floats
from torchpoly._estimator.memory import check_memory
from torchpoly._polynomial.fitted import PolynomialFamily
from torchpoly._search.candidates import Candidate
from torchpoly._search.left_out import LeftOutFits, LeftOutRows, left_out_rows
from torchpoly._search.scores import Scoring
from torchpoly._search.sources import PlainSource, SplitRows, SplitSource
from torchpoly._search.split_training import SplitTraining
from torchpoly._search.splits import SplitGram
from torchpoly._train.lockstep import train_in_lockstep

Fit = tuple[int, int]
Reason = str | Exception
Result = dict[str, Any]

# The matrices of the splits that train together take at most about 512 MiB. This is a choice, not a measurement.
_MAX_SPLIT_BYTES = 2**29
# Fewer splits that leave out one row are evaluated like other splits.
_MIN_LEFT_OUT = 3


class Evaluation:
    """The results of candidates on splits, and the reasons for fallbacks.

    Parameters
    ----------
    scoring : Scoring
    return_train_score : bool
    report : callable
        It is called after each fit with the index of the candidate, that of the split and the result.

    Attributes
    ----------
    results : dict of (int, int) to dict
        The results by the indices of candidate and split, in the form of scikit-learn's ``_fit_and_score``.
    reasons : dict of (int, int) to str or Exception
        Why a fit falls back to scikit-learn's evaluation, by the same indices.
    """

    def __init__(
        self, scoring: Scoring, return_train_score: bool, report: Callable[[int, int, Result], object]
    ) -> None:
        self._report = report
        self._scoring = scoring
        self._return_train_score = return_train_score
        self.results: dict[Fit, Result] = {}
        self.reasons: dict[Fit, Reason] = {}

    def fall_back(self, candidates: list[Candidate], splits: Iterable[int], reason: Reason) -> None:
        """Record why candidates fall back to scikit-learn's evaluation on some splits."""
        self.reasons |= dict.fromkeys(product([candidate.index for candidate in candidates], splits), reason)

    def fallback_lines(self, n_fits: int) -> list[str]:
        """Return a line with the number of fits for each reason."""
        counts = Counter(map(as_text, self.reasons.values()))
        return [f"{count} of {n_fits} fits fall back to scikit-learn: {reason}" for reason, count in counts.items()]

    def unexpected_exceptions(self, results: dict[Fit, Result]) -> list[str]:
        """Return the exceptions of the fast path that scikit-learn's evaluation of the same fits did not raise.

        Parameters
        ----------
        results : dict of (int, int) to dict
            The results of all fits, fallbacks included.
        """
        raised = {fit: as_text(reason) for fit, reason in self.reasons.items() if isinstance(reason, Exception)}
        # If both evaluations fail, the error is in the user's data, such as NaN in y, and scikit-learn reports it.
        expected = {text for fit, text in raised.items() if _has_failed(results[fit])}
        return [text for text in dict.fromkeys(raised.values()) if text not in expected]

    def add_plain(self, candidates: list[Candidate], source: PlainSource) -> None:
        """Train and score candidates on splits that share their rows, in closed form where splits leave out one row.

        Rows that span the box, or without which the terms have a lower rank, are left out by training on the others.
        """
        left_out = left_out_rows([rows.split for rows in source.rows.values()], len(source.data.X))
        others, refitted = candidates, defaultdict(list)
        if len(left_out) >= _MIN_LEFT_OUT and not self._scoring.needs_estimators:
            solved, start = [one for one in candidates if one.has_formula], perf_counter()
            for candidate, fits, changes in _until_error(LeftOutRows(source.data, source.box).fits(solved)):
                closed = {split: row for split, row in left_out.items() if not changes[row]}
                self._add_left_out(candidate, source, fits, closed, start)
                refitted[tuple(split for split in source.rows if split not in closed)].append(candidate)
                start = perf_counter()
            scored = {candidate.index for group in refitted.values() for candidate in group}
            others = [candidate for candidate in candidates if candidate.index not in scored]
        if others:
            self.add(others, source)
        for splits, group in refitted.items():
            if splits:
                self.add(group, source.restricted(splits))

    def _add_left_out(
        self, candidate: Candidate, source: PlainSource, fits: LeftOutFits, left_out: dict[int, int], start: float
    ) -> None:
        """Score the fits of a candidate to all rows but one.

        Parameters
        ----------
        candidate : Candidate
        source : PlainSource
        fits : LeftOutFits
        left_out : dict of int to int
            The row that is left out, by the index of the split.
        start : float
            When the training of the candidate began.
        """
        rows, trained = np.array(list(left_out.values()), dtype=np.intp), perf_counter()
        results: list[Result] = [
            {"test_scores": scores} for scores in self._scoring.of_single_rows(fits.predictions[rows], rows)
        ]
        if self._return_train_score:
            for split, row, result in zip(left_out, rows, results, strict=True):
                polynomial, training = fits.polynomial(row), source.rows[split].split[0]
                family = PolynomialFamily(
                    polynomial.basis, polynomial.coefficients[:, None], polynomial.targets, candidate.device
                )
                result["train_scores"] = self._scoring.of_polynomials(family, source.data.X[training], training)[0]
        times = [seconds / max(len(rows), 1) for seconds in (trained - start, perf_counter() - trained)]
        for split, result in zip(left_out, results, strict=True):
            self._keep(candidate, split, source.rows[split], result, *times)

    def add(self, candidates: list[Candidate], source: SplitSource) -> None:
        """Train and score candidates on the splits of a source."""
        families, box = defaultdict(list), source.box
        for candidate in candidates:
            spec = candidate.spec
            indices = spec.indices(source.n_features, None if box is None else box.values)
            try:
                check_memory(indices, source.fewest_rows)
            except ValueError as error:
                self.fall_back([candidate], source.rows, error)
                continue
            n_terms = indices.n_terms
            if n_terms > source.fewest_rows:
                self.fall_back([candidate], source.rows, "there are more terms than training rows")
            else:
                families[*spec.family, candidate.device].append((n_terms, candidate))
        for family in families.values():
            self._add_family(max(n_terms for n_terms, _ in family), [candidate for _, candidate in family], source)

    def _add_family(self, n_terms: int, candidates: list[Candidate], source: SplitSource) -> None:
        """Train and score candidates of one family of terms, of which the highest degree has `n_terms`."""
        specs = [candidate.spec for candidate in candidates]
        n_matrices = 5 + len({spec.alpha for spec in specs})
        size = max(1, _MAX_SPLIT_BYTES // (8 * n_matrices * n_terms**2))
        split_grams = source.split_grams(max(specs, key=lambda spec: spec.degree), candidates[0].device)
        left = list(source.rows)
        while left:
            start = perf_counter()
            try:
                trainings = self._train(candidates, islice(split_grams, size))
            except Exception as error:
                # The error of a device, for example: scikit-learn's evaluation may get by without the fast path.
                self.fall_back(candidates, left, error)
                return
            n_trained = sum(training.n_together for training in trainings.values() if training is not None)
            fit_time = (perf_counter() - start) / max(n_trained, 1)
            for split, training in trainings.items():
                if training is None:
                    self.fall_back(candidates, [split], "a part of the split has no row of positive weight")
                else:
                    self._add_trained(training, split, source.rows[split], fit_time)
            left = left[len(trainings) :]

    def _train(
        self, candidates: list[Candidate], split_grams: Iterator[tuple[int, SplitGram | None]]
    ) -> dict[int, SplitTraining | None]:
        """Train candidates together on some splits, and return the trainings by split."""
        together = not self._scoring.needs_estimators
        trainings = {
            split: None if split_gram is None else SplitTraining(split_gram, candidates, together=together)
            for split, split_gram in split_grams
        }
        train_in_lockstep(lane for training in trainings.values() if training is not None for _, lane in training.lanes)
        return trainings

    def _add_trained(self, training: SplitTraining, split: int, rows: SplitRows, fit_time: float) -> None:
        """Score the candidates that trained together, then train and score the others one by one."""
        owners, coefficients = training.polynomials()
        if owners:
            start = perf_counter()
            scores = self._scores(training.split_gram, coefficients, rows)
            score_time = (perf_counter() - start) / training.n_together
            for candidates, scored in zip(owners, scores, strict=True):
                for candidate in candidates:
                    self._keep(candidate, split, rows, scored, fit_time, score_time)
        for candidates, lane in training.lanes:
            if lane.failure is not None:
                self.fall_back(candidates, [split], lane.failure)
        for candidate in training.alone:
            self._add_alone(candidate, split, rows, training)

    def _scores(self, split_gram: SplitGram, coefficients: Floats, rows: SplitRows) -> list[Result]:
        """Return the scores of polynomials, whose coefficients belong to the basis of the split."""
        score = partial(self._scoring.of_polynomials, split_gram.family(coefficients))
        scores = {"test_scores": score(rows.test.X, rows.split[1], split_gram.test)}
        if self._return_train_score and rows.X_scored is not None:
            scores["train_scores"] = score(rows.X_scored, rows.split[0])
        elif self._return_train_score:
            scores["train_scores"] = score(rows.training.X, rows.split[0], split_gram.training)
        return [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]

    def _add_alone(self, candidate: Candidate, split: int, rows: SplitRows, training: SplitTraining) -> None:
        """Train one candidate from the Gram matrix of a split, and score the fitted estimator."""
        start = perf_counter()
        estimator = clone(candidate.estimator)
        try:
            problem = training.problem(candidate.spec)
            if problem is None:
                self.fall_back([candidate], [split], "a fit reads the training rows more than once")
                return
            estimator._train(problem, candidate.optimizer, training.split_gram.n_rows, rows.single_target)
        except Exception as error:  # a user's optimizer can raise any exception
            self.fall_back([candidate], [split], error)
            return
        fitted = rows.complete(estimator)
        trained = perf_counter()
        training_rows, test_rows = rows.split
        scores = {"test_scores": self._scoring.of_estimator(fitted, test_rows, training_rows)}
        if self._return_train_score:
            scores["train_scores"] = self._scoring.of_estimator(fitted, training_rows)
        self._keep(candidate, split, rows, scores, trained - start, perf_counter() - trained)

    def _keep(
        self, candidate: Candidate, split: int, rows: SplitRows, scores: Result, fit_time: float, score_time: float
    ) -> None:
        result = scores | {
            "fit_error": None,
            "n_test_samples": len(rows.split[1]),
            "fit_time": fit_time,
            "score_time": score_time,
        }
        self.results[candidate.index, split] = result
        self._report(candidate.index, split, result)


def _until_error(fits: Iterator[Any]) -> Iterator[Any]:
    """Yield until an exception, such as that of a device: the other candidates train as on other splits."""
    with suppress(Exception):
        yield from fits


def _has_failed(result: Result) -> bool:
    scores = result["test_scores"]
    values = scores.values() if isinstance(scores, dict) else [scores]
    return result["fit_error"] is not None or not np.isfinite(list(values)).all()


def as_text(reason: Reason) -> str:
    """Return a reason as a report quotes it."""
    return reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
