"""Training of the candidates of a search on one split, from its Gram matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._estimator.spec import ModelSpec
from torchpoly._search.candidates import Candidate
from torchpoly._search.splits import SplitGram
from torchpoly._train.gram_objective import GramObjective
from torchpoly._train.lockstep import Lane
from torchpoly._train.problem import Part, Problem


class SplitTraining:
    """The trainings of candidates on one split.

    Parameters
    ----------
    split_gram : SplitGram
    candidates : list of Candidate
    together : bool
        Whether candidates may train together. The scorer then needs coefficients only, not estimators.

    Attributes
    ----------
    solved : list of (list of Candidate, ndarray)
        Least-squares coefficients, with the candidates whose training ends there.
    lanes : list of (list of Candidate, Lane)
        The parts of the lockstep training, with the candidates that each part is for.
    alone : list of Candidate
        Candidates that train one by one.
    """

    def __init__(self, split_gram: SplitGram, candidates: Sequence[Candidate], *, together: bool) -> None:
        self.split_gram = split_gram
        self.solved: list[tuple[list[Candidate], Floats]] = []
        self.lanes: list[tuple[list[Candidate], Lane]] = []
        self.alone: list[Candidate] = []
        self._problems: dict[tuple[object, ...], Problem | None] = {}
        alike = defaultdict(list)
        for candidate in candidates:
            if together and candidate.trains_together:
                alike[candidate.same_polynomial].append(candidate)
            else:
                self.alone.append(candidate)
        by_degree = defaultdict(list)
        for group in alike.values():
            if group[0].has_formula:
                by_degree[group[0].spec.degree].append(group)
            else:
                self._enlist(group)
        for degree, groups in by_degree.items():
            self._solve(degree, groups)

    @property
    def n_together(self) -> int:
        """The number of candidates that train together."""
        return sum(len(owners) for owners, _ in [*self.solved, *self.lanes])

    def _solve(self, degree: int, groups: list[list[Candidate]]) -> None:
        """Solve the least squares of all penalties of a degree, where the Gram matrix is accurate enough."""
        if self.split_gram.basis.of_degree(degree).n_terms > self.split_gram.n_rows:
            self.alone += chain(*groups)
            return
        path, exact = self.split_gram.ridge_path(degree, [group[0].spec.alpha for group in groups])
        for group, polynomial, is_exact in zip(groups, np.moveaxis(path, 1, 0), exact, strict=True):
            if is_exact:
                self.solved.append((group, polynomial))
            else:
                self.alone += group

    def _enlist(self, group: list[Candidate]) -> None:
        """Add a group of candidates to the lockstep training, if the Gram matrix is accurate enough."""
        first, problem = group[0], self.problem(group[0].spec)
        if problem is None:
            self.alone += group
            return
        estimator, part = first.estimator, problem.parts[0]
        objective = cast(GramObjective, part.objective)
        self.lanes.append((group, Lane(objective, part.parameters, first.optimizer, estimator.n_iter, estimator.tol)))

    def problem(self, spec: ModelSpec) -> Problem | None:
        """Return the problem of a fit to the training rows, with its own copy of the initial parameters.

        It is None if a fit would read the rows more than once.
        """
        key = spec.degree, spec.alpha, spec.basis
        if key not in self._problems:
            self._problems[key] = self.split_gram.build_problem(spec)
        problem = self._problems[key]
        if problem is None:
            return None
        parts = [Part(part.objective, part.parameters.copy()) for part in problem.parts]
        return replace(problem, parts=parts)

    def polynomials(self) -> tuple[list[list[Candidate]], Floats]:
        """Return the polynomials that were trained together.

        Returns
        -------
        owners : list of list of Candidate
            The candidates that each polynomial belongs to.
        coefficients : ndarray of shape (n_terms, n_polynomials, n_targets)
            Coefficients in the basis of the split.
        """
        found = self.solved.copy()
        for owners, lane in self.lanes:
            if lane.failure is None:
                found.append((owners, lane.objective.coefficients(lane.parameters)))
        coefficients = np.zeros((self.split_gram.basis.n_terms, len(found), len(self.split_gram.statistics.target)))
        for column, (_, polynomial) in enumerate(found):
            coefficients[: len(polynomial), column] = polynomial
        return [owners for owners, _ in found], coefficients
