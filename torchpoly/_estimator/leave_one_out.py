"""Choice of degree and alpha by exact leave-one-out errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._estimator.spec import ModelSpec
from torchpoly._gram.conditioning import read_until_conditioned, well_conditioned
from torchpoly._gram.demmler_reinsch import DemmlerReinsch
from torchpoly._gram.leave_one_out import mean_squared_errors
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.source import Source
from torchpoly._gram.target_statistics import product_rounding
from torchpoly._polynomial.index_set import IndexSet
from torchpoly._polynomial.target_scaling import TargetScaling

# The value of `degree` and `alpha` that asks for leave-one-out.
LOO = "loo"
# 0, and two values in each decade up to 10. With four values in each, predictions of 18 tables were as good.
_ALPHAS = np.r_[0.0, 10.0 ** (np.arange(-17, 3) / 2)]
# The greatest degree that is tried, and the greatest number of terms of a degree above 1.
_GREATEST_DEGREE, _MAX_TERMS = 15, 1500
_MIN_ROWS = 3


@dataclass(frozen=True)
class Candidates:
    """The degrees and penalties from which leave-one-out chooses.

    Parameters
    ----------
    spec : ModelSpec
        Of the greatest degree.
    degrees : list of int
        In ascending order.
    alphas : ndarray of shape (n_alphas,)
        In ascending order.
    """

    spec: ModelSpec
    degrees: list[int]
    alphas: Floats

    @classmethod
    def of(cls, spec: ModelSpec, indices: IndexSet) -> Candidates:
        """Return the candidates of a spec whose degree or alpha may be "loo".

        Parameters
        ----------
        spec : ModelSpec
        indices : IndexSet
            That of the columns, of any degree.
        """
        degrees = [spec.degree]
        if spec.degree == LOO:
            highest = max(1, indices.of_degree(_GREATEST_DEGREE).highest)
            tried = range(1, highest + 1)
            degrees = [degree for degree in tried if degree == 1 or indices.of_degree(degree).n_terms <= _MAX_TERMS]
        alphas = _ALPHAS if spec.alpha == LOO else np.array([float(spec.alpha)])
        return cls(spec.with_values(degrees[-1], float(alphas[0])), degrees, alphas)

    def choose(
        self, reading: NormalEquations, source: Source, targets: TargetScaling
    ) -> tuple[ModelSpec, NormalEquations, dict[str, Any]]:
        """Return the spec of the least leave-one-out error, its normal equations, and `loo_path_`.

        The errors of several targets are divided by the variances of the targets and summed. Errors that are
        only rounding count as 0. Of equal errors, that of the lowest degree and then of the least alpha wins.

        Parameters
        ----------
        reading : NormalEquations
            Of the greatest degree.
        source : Source
            The same rows.
        targets : TargetScaling
        """
        equations, bases, alphas, owners = [], [], [], []
        for position, degree in enumerate(self.degrees):
            plain, conditioned = self._equations(reading, degree, source)
            equations.append((plain, conditioned))
            for basis, own in self._bases(plain, conditioned, source):
                bases.append(basis)
                alphas.append(self.alphas[own])
                owners.append((position, own))
        found = mean_squared_errors(bases, alphas, source, reading.statistics.total_weight)
        errors = np.full((len(self.degrees), len(self.alphas), len(targets.scale)), np.nan)
        for (position, own), of_basis in zip(owners, found, strict=True):
            errors[position, own] = of_basis
        is_rounding = errors <= product_rounding(targets) ** 2
        compared = np.where(is_rounding, 0.0, errors).sum(axis=2)
        best, chosen = np.unravel_index(np.where(np.isnan(compared), np.inf, compared).argmin(), compared.shape)
        spec = self.spec.with_values(self.degrees[best], float(self.alphas[chosen]))
        path = {
            "degree": np.array(self.degrees),
            "alpha": self.alphas.copy(),
            "mean_squared_error": errors * np.square(targets.scale),
        }
        return spec, equations[best][1 if spec.needs_well_conditioned else 0], path

    def _equations(
        self, reading: NormalEquations, degree: int, source: Source
    ) -> tuple[NormalEquations, NormalEquations]:
        """Return the normal equations of a degree for penalties above 0, and those for the penalty 0."""
        plain = reading
        if degree != self.degrees[-1]:
            basis = reading.basis.of_degree(degree)
            if reading.rows is None:
                plain = NormalEquations(basis, None, reading.statistics.leading_block(basis.n_terms), None)
            else:
                plain = source.read(basis)
        needs_conditioned = self.spec.with_values(degree, 0.0).needs_well_conditioned and self.alphas[0] == 0
        return plain, well_conditioned(plain, source) if needs_conditioned else plain

    def _bases(
        self, plain: NormalEquations, conditioned: NormalEquations, source: Source
    ) -> list[tuple[DemmlerReinsch, slice]]:
        """Return one or two bases, and for which of the penalties they are."""
        if conditioned.basis is plain.basis and conditioned is not plain:
            return [(DemmlerReinsch.of(conditioned), slice(None))]
        if conditioned is plain:
            return [(DemmlerReinsch.of(read_until_conditioned(plain, source)), slice(None))]
        # Without a penalty, other variables replace columns that depend on each other.
        bases = [(DemmlerReinsch.of(conditioned), slice(1))]
        if len(self.alphas) > 1:
            bases.append((DemmlerReinsch.of(read_until_conditioned(plain, source)), slice(1, None)))
        return bases


def check_numbers(spec: ModelSpec) -> None:
    """Raise a ValueError if `degree` or `alpha` is "loo"."""
    for name, value in [("degree", spec.degree), ("alpha", spec.alpha)]:
        if value == LOO:
            raise ValueError(
                f"The {name!r} parameter got 'loo', but partial_fit keeps only the Gram matrix of the rows, and "
                f"leave-one-out errors need the rows. Use fit on all rows, or set {name!r} to a number: a fit to some "
                f"of the rows can choose it, as its fitted attribute '{name}_'."
            )


def check_candidates(spec: ModelSpec, batch_size: int | None, n_rows: int) -> None:
    """Raise a ValueError if leave-one-out cannot choose `degree` or `alpha`."""
    name = "degree" if spec.degree == LOO else "alpha"
    message = f"The {name!r} parameter got 'loo', and leave-one-out errors are computed only "
    advice = f"set {name!r} to a number, which PolynomialGridSearchCV can search for"
    if not spec.is_least_squares:
        raise ValueError(f"{message}for loss='squared_error', not {spec.loss!r}. Use that loss, or {advice}.")
    if batch_size is not None:
        raise ValueError(f"{message}without mini-batches: batch_size is {batch_size}. Set it to None, or {advice}.")
    if spec.is_monomial:
        raise ValueError(f"{message}for scaled columns, not for basis='monomial'. Use another basis, or {advice}.")
    if n_rows < _MIN_ROWS:
        raise ValueError(
            f"The {name!r} parameter got 'loo', which needs at least {_MIN_ROWS} rows of positive weight, and there "
            f"are {n_rows}. Give more rows, or set {name!r} to a number."
        )


def has_candidates(spec: ModelSpec) -> bool:
    """Whether `degree` or `alpha` is "loo"."""
    return LOO in (spec.degree, spec.alpha)

