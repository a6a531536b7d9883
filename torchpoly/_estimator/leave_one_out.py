"""Choice of degree and alpha by exact leave-one-out errors."""

from __future__ import annotations

from collections.abc import Iterator
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
# If rows are not in memory, the error of leverages is the condition number of their Gram matrix, times rounding. The
# known upper bound of the condition number is about `n_terms` times too large.
_MAX_SHARED_CONDITION = 1e6


@dataclass(frozen=True)
class DegreeBasis:
    """The Demmler-Reinsch basis of a degree, for some of the penalties.

    Parameters
    ----------
    degree : int
    alphas : slice
        Of the penalties.
    plain, conditioned : NormalEquations
        Those of a fit with a penalty, and of a fit without.
    basis : DemmlerReinsch
    """

    degree: int
    alphas: slice
    plain: NormalEquations
    conditioned: NormalEquations
    basis: DemmlerReinsch


@dataclass(frozen=True)
class LeaveOneOutGrid:
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
    def of(cls, spec: ModelSpec, indices: IndexSet) -> LeaveOneOutGrid:
        """Return the candidates of a spec whose degree or alpha may be "loo".

        Parameters
        ----------
        spec : ModelSpec
        indices : IndexSet
            That of the columns, of any degree.
        """
        degrees = [spec.degree]
        if is_loo(spec.degree):
            highest = max(1, indices.of_degree(_GREATEST_DEGREE).highest)
            tried = range(1, highest + 1)
            degrees = [degree for degree in tried if degree == 1 or indices.of_degree(degree).n_terms <= _MAX_TERMS]
        alphas = _ALPHAS if is_loo(spec.alpha) else np.array([float(spec.alpha)])
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
        found = list(self.bases(reading, source))
        bases, alphas = [one.basis for one in found], [self.alphas[one.alphas] for one in found]
        errors = np.full((len(self.degrees), len(self.alphas), len(targets.scale)), np.nan)
        total_weight = reading.statistics.total_weight
        for one, of_basis in zip(found, mean_squared_errors(bases, alphas, source, total_weight), strict=True):
            errors[self.degrees.index(one.degree), one.alphas] = of_basis
        is_rounding = errors <= product_rounding(targets) ** 2
        compared = np.where(is_rounding, 0.0, errors).sum(axis=2)
        if np.isnan(compared).all():
            raise ValueError(
                "The 'degree' parameter got 'loo' with alpha=0, and some rows lie alone on a term, such as the only "
                "row with a 1 in a column of zeros. In so many rows, their leave-one-out errors are only rounding. Set "
                "alpha='loo' or a number above 0, or drop these rows or columns."
            )
        best, chosen = np.unravel_index(np.where(np.isnan(compared), np.inf, compared).argmin(), compared.shape)
        spec = self.spec.with_values(self.degrees[best], float(self.alphas[chosen]))
        winner = next(one for one in found if one.degree == spec.degree)
        with np.errstate(over="ignore"):  # squares of numbers above 1e154 are infinite
            in_units_of_y = np.square(np.sqrt(errors) * targets.scale)
        path = {"degree": np.array(self.degrees), "alpha": self.alphas.copy(), "mean_squared_error": in_units_of_y}
        return spec, winner.conditioned if spec.needs_well_conditioned else winner.plain, path

    def bases(self, reading: NormalEquations, source: Source) -> Iterator[DegreeBasis]:
        """Yield one or two bases for each degree, which together serve all penalties.

        Parameters
        ----------
        reading : NormalEquations
            Of the greatest degree.
        source : Source
            The same rows.
        """
        has_zero = bool(self.alphas[0] == 0)
        for degree in self.degrees:
            plain = self._leading(reading, degree, source)
            needs_conditioned = has_zero and self.spec.with_values(degree, 0.0).needs_well_conditioned
            whole = (well_conditioned if needs_conditioned else read_until_conditioned)(plain, source)
            conditioned = whole if needs_conditioned else plain
            if whole.basis is plain.basis and _serves_all_penalties(whole):
                yield DegreeBasis(degree, slice(None), plain, conditioned, DemmlerReinsch.of(whole))
                continue
            if has_zero:
                yield DegreeBasis(degree, slice(1), plain, conditioned, DemmlerReinsch.of(whole))
            if self.alphas[-1] > 0:
                basis = DemmlerReinsch.of_scaled_terms(plain)
                yield DegreeBasis(degree, slice(int(has_zero), None), plain, conditioned, basis)

    def _leading(self, reading: NormalEquations, degree: int, source: Source) -> NormalEquations:
        """Return the normal equations of a lower degree."""
        if degree == self.degrees[-1]:
            return reading
        basis = reading.basis.of_degree(degree)
        if reading.rows is not None:
            return source.read(basis)
        return NormalEquations(basis, None, reading.statistics.leading_block(basis.n_terms), None)


def is_loo(value: object) -> bool:
    """Whether a value of `degree` or `alpha` is "loo"."""
    return value == LOO


def _serves_all_penalties(equations: NormalEquations) -> bool:
    """Whether the errors of orthonormal features are small beside the effect of the least penalty above 0."""
    if equations.rows is not None or not isinstance(equations.statistics.features, np.ndarray):
        return equations.transform is None
    condition = equations.statistics.whitening().kept_condition / equations.basis.n_terms
    return equations.transform is None and condition < _MAX_SHARED_CONDITION


def check_numbers(spec: ModelSpec) -> None:
    """Raise a ValueError if `degree` or `alpha` is "loo"."""
    for name, value in [("degree", spec.degree), ("alpha", spec.alpha)]:
        if is_loo(value):
            raise ValueError(
                f"The {name!r} parameter got 'loo', but partial_fit keeps only the Gram matrix of the rows, and "
                f"leave-one-out errors need the rows. Use fit on all rows, or set {name!r} to a number: a fit to some "
                f"of the rows can choose it, as its fitted attribute '{name}_'."
            )


def check_leave_one_out(spec: ModelSpec, batch_size: int | None, n_rows: int) -> None:
    """Raise a ValueError if leave-one-out cannot choose `degree` or `alpha`."""
    name = "degree" if is_loo(spec.degree) else "alpha"
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
            f"The {name!r} parameter got 'loo', which needs at least {_MIN_ROWS} rows of positive weight, and got "
            f"n_samples={n_rows}. Give more rows, or set {name!r} to a number."
        )


def uses_leave_one_out(spec: ModelSpec) -> bool:
    """Whether `degree` or `alpha` is "loo"."""
    return is_loo(spec.degree) or is_loo(spec.alpha)
