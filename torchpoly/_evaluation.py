"""Candidates trained and scored on all splits, from what is read of the rows once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from time import perf_counter
from typing import Any, cast

import numpy as np
from sklearn.base import clone

from torchpoly._basis import count_terms
from torchpoly._candidates import Candidate
from torchpoly._checks import check_memory
from torchpoly._domain import Floats, count_rows
from torchpoly._fitted import PolynomialFamily
from torchpoly._fitting import Model, Part, Problem
from torchpoly._folds import Fold
from torchpoly._lockstep import Lane, train_columns, train_in_lockstep
from torchpoly._objective import GramObjective
from torchpoly._scores import Scoring
from torchpoly._split_rows import SplitRows, SplitSource

# Folds train together as long as their matrices take about these bytes.
_BUDGET = 2**29
# Predictions for as many columns are held at a time in training as make so many values.
_MAX_COLUMNS = 2**22

Result = dict[str, Any]


class Evaluation:
    """The results of candidates on splits.

    Parameters
    ----------
    scoring : Scoring
    return_train_score : bool
    report : callable
        Is told the index of the candidate, the split and the result of each training.

    Attributes
    ----------
    results : dict of (int, int) to dict
        What scikit-learn's searches keep of a fit, by index of the candidate and of the split. It
        lacks those that a fit alone would raise an exception for.
    """

    def __init__(
        self, scoring: Scoring, return_train_score: bool, report: Callable[[int, int, Result], object]
    ) -> None:
        self._report = report
        self._scoring = scoring
        self._return_train_score = return_train_score
        self.results: dict[tuple[int, int], Result] = {}

    def add(self, candidates: list[Candidate], source: SplitSource) -> None:
        """Train and score candidates on the rows of a source."""
        alike, others, box = defaultdict(list), [], source.box()
        for candidate in candidates:
            model = candidate.model
            caps = () if box is None else model.caps(box)
            try:
                check_memory(model.degree, source.fewest_rows, source.n_features, model.interaction_only, caps)
            except ValueError:
                continue
            n_terms = count_terms(source.n_features, model.degree, model.interaction_only, caps)
            if candidate.is_least_squares and n_terms <= source.fewest_rows:
                alike[model.interaction_only, model.is_textbook, candidate.device].append((n_terms, candidate))
            else:
                others.append(candidate)
        for group in alike.values():
            self._add_least_squares(max(n_terms for n_terms, _ in group), [candidate for _, candidate in group], source)
        for split in source.splits:
            rows = source.rows(split) if others else None
            if rows is not None:
                self._add_on_rows(others, split, rows)

    def _add_least_squares(self, n_terms: int, candidates: list[Candidate], source: SplitSource) -> None:
        """Train and score candidates of one family of terms, of which the greatest degree has so many."""
        models = [candidate.model for candidate in candidates]
        greatest = max(models, key=lambda model: model.degree)
        n_matrices = 5 + len({model.alpha for model in models})
        size = max(1, _BUDGET // (8 * n_matrices * n_terms**2))
        folds = source.folds(greatest, candidates[0].device)
        start = perf_counter()
        while trainings := self._train_some(candidates, folds, size):
            n_trained = sum(training.n_together for training in trainings.values())
            fit_time = (perf_counter() - start) / max(n_trained, 1)
            for split, training in trainings.items():
                rows = source.rows(split)
                if rows is not None:
                    self._add_polynomials(training, split, rows, fit_time)
                    for candidate in training.alone:
                        self._add_alone(candidate, split, rows, training.problem(candidate.model))
            start = perf_counter()

    def _train_some(
        self, candidates: list[Candidate], folds: Iterator[tuple[int, Fold | None]], size: int
    ) -> dict[int, _FoldTraining]:
        """Train together on the next so many folds; on none if there is what no fit takes."""
        together = not self._scoring.needs_estimators
        try:
            batch = dict(islice(folds, size))
            trainings = {
                split: _FoldTraining(fold, candidates, together=together)
                for split, fold in batch.items()
                if fold is not None
            }
            train_in_lockstep(lane for training in trainings.values() for _, lane in training.lanes)
        except (ValueError, TypeError, ArithmeticError, MemoryError):
            return {}
        return trainings

    def _add_polynomials(self, training: _FoldTraining, split: int, rows: SplitRows, fit_time: float) -> None:
        """Score what has trained together."""
        owners, coefficients = training.polynomials()
        if not owners:
            return
        fold, start = training.fold, perf_counter()
        scores = self._scores(fold.family(coefficients), rows, fold)
        score_time = (perf_counter() - start) / training.n_together
        for candidates, scored in zip(owners, scores, strict=True):
            for candidate in candidates:
                self._keep(candidate, split, rows, scored, fit_time, score_time)

    def _add_on_rows(self, candidates: list[Candidate], split: int, rows: SplitRows) -> None:
        """Train and score candidates whose training needs the rows."""
        groups = defaultdict(list)
        for candidate in candidates:
            groups[*candidate.model.prepares_like, candidate.device].append(candidate)
        for group in groups.values():
            columns = defaultdict(list)
            for candidate in group:
                if candidate.is_column and not self._scoring.needs_estimators:
                    columns[candidate.same_columns].append(candidate)
                else:
                    self._add_alone(candidate, split, rows, None)
            for together in columns.values():
                step = max(1, _MAX_COLUMNS // rows.training.Y.size)
                for start in range(0, len(together), step):
                    self._add_columns(together[start : start + step], split, rows)

    def _add_columns(self, candidates: list[Candidate], split: int, rows: SplitRows) -> None:
        """Train candidates as columns of one parameter matrix, and score them."""
        start = perf_counter()
        first, n_targets = candidates[0], rows.training.Y.shape[1]
        models = [candidate.model for candidate in candidates]
        try:
            prepared, (_, _, box) = rows.prepare(first), rows.read(first)
        except (ValueError, MemoryError):
            return
        model = replace(
            first.model,
            epsilon=np.repeat([model.epsilon for model in models], n_targets),
            quantile=np.repeat([model.quantile for model in models], n_targets),
        )
        together = prepared.repeated(len(candidates))
        problem = model.on_rows(together, box, single_target=False, batch_size=None, in_stages=False)
        objective = problem.parts[0].objective
        shape = len(problem.parts[0].parameters), n_targets
        lanes = [
            Lane(objective, np.zeros(shape), candidate.spec, candidate.estimator.n_iter, candidate.estimator.tol)
            for candidate in candidates
        ]
        train_columns(lanes)
        coefficients = objective.coefficients(np.hstack([lane.parameters for lane in lanes]))
        kept = [column for column, lane in enumerate(lanes) if not lane.is_lost]
        polynomials = PolynomialFamily(
            prepared.basis,
            coefficients.reshape(len(coefficients), len(lanes), n_targets)[:, kept],
            prepared.data.targets,
            first.device,
        )
        fit_time, start = (perf_counter() - start) / len(lanes), perf_counter()
        scores = self._scores(polynomials, rows)
        score_time = (perf_counter() - start) / len(lanes)
        for column, scored in zip(kept, scores, strict=True):
            self._keep(candidates[column], split, rows, scored, fit_time, score_time)
        for candidate, lane in zip(candidates, lanes, strict=True):
            if lane.is_lost:
                self._add_alone(candidate, split, rows, None)

    def _scores(self, polynomials: PolynomialFamily, rows: SplitRows, fold: Fold | None = None) -> list[Result]:
        """Return the scores of each polynomial."""
        sets = {"test_scores": (rows.test.X, rows.split[1], None if fold is None else fold.test)}
        if self._return_train_score:
            if rows.X_scored is None:
                sets["train_scores"] = rows.training.X, rows.split[0], None if fold is None else fold.training
            else:
                sets["train_scores"] = rows.X_scored, rows.split[0], None
        scores = {name: self._scoring.of_polynomials(polynomials, *those) for name, those in sets.items()}
        return [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]

    def _add_alone(self, candidate: Candidate, split: int, rows: SplitRows, problem: Problem | None) -> None:
        """Train a candidate by itself and score the estimator; leave it out where that fails."""
        start = perf_counter()
        estimator, model = clone(candidate.estimator), candidate.model
        try:
            X, weights = rows.training.X, rows.training.weights
            n_rows = count_rows(X, weights)
            estimator._check_batch_size(n_rows, candidate.spec)
            check_memory(model.degree, n_rows, X.shape[1], model.interaction_only)
            if problem is None:
                problem = rows.pose(candidate)
            estimator._train(problem, candidate.spec, n_rows, rows.single_target)
        except Exception:
            return
        fitted = rows.complete(estimator)
        trained = perf_counter()
        training_rows, test_rows = rows.split
        scores = {"test_scores": self._scoring.of_estimator(fitted, test_rows, training_rows)}
        if self._return_train_score:
            scores["train_scores"] = self._scoring.of_estimator(fitted, training_rows)
        self._keep(candidate, split, rows, scores, trained - start, perf_counter() - trained)

    def _keep(
        self,
        candidate: Candidate,
        split: int,
        rows: SplitRows,
        scores: Result,
        fit_time: float,
        score_time: float,
    ) -> None:
        result = scores | {
            "fit_error": None,
            "n_test_samples": len(rows.split[1]),
            "fit_time": fit_time,
            "score_time": score_time,
        }
        self.results[candidate.index, split] = result
        self._report(candidate.index, split, result)


class _FoldTraining:
    """The trainings of candidates on a fold.

    Attributes
    ----------
    lanes : list of (list of Candidate, Lane)
        What trains in lockstep, with the candidates it is for.
    alone : list of Candidate
        What has to be trained by itself.
    """

    def __init__(self, fold: Fold, candidates: list[Candidate], *, together: bool) -> None:
        self.fold = fold
        self.lanes: list[tuple[list[Candidate], Lane]] = []
        self.alone: list[Candidate] = []
        self._problems: dict[tuple[object, ...], Problem | None] = {}
        same = defaultdict(list)
        for candidate in candidates:
            may = together and candidate.continues and (candidate.has_formula or candidate.trains_in_lockstep)
            if may:
                same[candidate.same_polynomial].append(candidate)
            else:
                self.alone.append(candidate)
        self._solve([one for one in same.values() if one[0].has_formula])
        for one in same.values():
            if not one[0].has_formula:
                self._enlist(one)

    @property
    def n_together(self) -> int:
        """The number of candidates that are not alone."""
        return sum(len(owners) for owners, _ in [*self._solved, *self.lanes])

    def _solve(self, groups: list[list[Candidate]]) -> None:
        """Solve those whose training ends at the optimum."""
        self._solved: list[tuple[list[Candidate], Floats]] = []
        by_degree = defaultdict(list)
        for group in groups:
            by_degree[group[0].model.degree].append(group)
        for degree, of_degree in by_degree.items():
            if self.fold.n_terms(degree) > self.fold.n_rows:
                self.alone += chain(*of_degree)
                continue
            path, exact = self.fold.ridge_path(degree, [group[0].model.alpha for group in of_degree])
            for group, polynomial, is_exact in zip(of_degree, np.moveaxis(path, 1, 0), exact, strict=True):
                if is_exact:
                    self._solved.append((group, polynomial))
                else:
                    self.alone += group

    def _enlist(self, group: list[Candidate]) -> None:
        """Let those train in lockstep, or alone where their Gram matrix has too few digits."""
        first, problem = group[0], self.problem(group[0].model)
        if problem is None:
            self.alone += group
            return
        estimator, part = first.estimator, problem.parts[0]
        self.lanes.append(
            (
                group,
                Lane(cast(GramObjective, part.objective), part.parameters, first.spec, estimator.n_iter, estimator.tol),
            )
        )

    def problem(self, model: Model) -> Problem | None:
        """Return what a fit alone would minimise, with parameters of its own; None where it would read more."""
        key = model.degree, model.alpha, model.basis
        if key not in self._problems:
            self._problems[key] = self.fold.pose(model)
        problem = self._problems[key]
        if problem is None:
            return None
        parts = [Part(part.objective, part.parameters.copy()) for part in problem.parts]
        return replace(problem, parts=parts)

    def polynomials(self) -> tuple[list[list[Candidate]], Floats]:
        """Return what has been trained together, in the basis of the fold.

        Returns
        -------
        owners : list of list of Candidate
            Whose polynomial it is.
        coefficients : ndarray of shape (n_terms, n_polynomials, n_targets)
        """
        found = self._solved.copy()
        for owners, lane in self.lanes:
            if lane.is_lost:
                self.alone += owners
            else:
                found.append((owners, lane.objective.coefficients(lane.parameters)))
        coefficients = np.zeros((self.fold.basis.n_terms, len(found), len(self.fold.statistics.target)))
        for column, (_, polynomial) in enumerate(found):
            coefficients[: len(polynomial), column] = polynomial
        return [owners for owners, _ in found], coefficients
