"""Builds the problem that training minimizes, from rows or from a Gram matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device, asarray_like, to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._estimator.leave_one_out import LeaveOneOutGrid
from torchpoly._estimator.spec import ModelSpec, loss_class
from torchpoly._gram.conditioning import well_conditioned
from torchpoly._gram.coordinates import Coordinates, PrimalCoordinates
from torchpoly._gram.extremes import columns_with_extremes
from torchpoly._gram.merging import RunningGram
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.reading import TrainingRows
from torchpoly._gram.source import Source
from torchpoly._gram.target_statistics import product_rounding
from torchpoly._loss.base import Stages
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.fitted import FittedPolynomial
from torchpoly._polynomial.target_scaling import TargetScaling
from torchpoly._train.gram_objective import GramObjective
from torchpoly._train.loss_rows import LossRows
from torchpoly._train.problem import Part, Problem
from torchpoly._train.row_objective import RowObjective

# A warm start is ignored if it predicts more than this in standard deviations of y. Squares of such
# predictions, 1e140, and their products with features are still far below the largest float, 1e308.
_MAX_WARM_START = 1e70
# If the mean squared residuals are a smaller part of those of y, the rows are read once more for them.
_MIN_RELATIVE_RESIDUAL = 1e-6


def build_from_rows(
    spec: ModelSpec,
    X: NDArray[Any],
    y: NDArray[Any],
    weights: Floats | None,
    box: Box,
    *,
    device: Device,
    batch_size: int | None,
    in_stages: bool,
    warm: FittedPolynomial | None,
    on_chunk: Callable[[], object] | None,
    grid: LeaveOneOutGrid | None = None,
) -> Problem:
    """Read the rows once, or twice if ill-conditioned, and return the problem of a fit.

    Parameters
    ----------
    spec : ModelSpec
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
    weights : ndarray of shape (n_samples,) or None
    box : Box
        The ranges of the rows of positive weight.
    device : torch.device or None
    batch_size : int or None
        Number of rows in a mini-batch; None for all rows.
    in_stages : bool
        Whether the loss may be minimized in stages.
    warm : FittedPolynomial or None
        The polynomial from which training starts.
    on_chunk : callable or None
        It is called after each chunk of rows that is read.
    grid : LeaveOneOutGrid, optional
        The degrees and penalties from which leave-one-out chooses.
    """
    data = spec.data(X, y, weights, device, on_chunk)
    chosen, path = None, None
    if grid is not None:
        spec, chosen, path = grid.choose(data.read(spec.basis_for(box)), data, data.targets)
    # For a warm start, the predictions of the last polynomial are read as further targets. Their least
    # squares are the coefficients of that polynomial in the new basis.
    extended = data if warm is None else _with_predictions(data, warm)
    if chosen is None or extended is not data:
        chosen = extended.read(spec.basis_for(box))
        if spec.needs_well_conditioned:
            chosen = well_conditioned(chosen, extended)
    reading, more = chosen.split(data.Y.shape[1])
    start = None if extended is data else more
    if spec.is_least_squares and batch_size is None:
        problem = build_from_gram(spec, reading, data.targets, box, start, data)
    else:
        problem = _build_on_rows(
            spec,
            reading,
            data,
            box,
            single_target=y.ndim == 1,
            batch_size=batch_size,
            in_stages=in_stages,
            warm=start,
        )
    problem = replace(problem, path=path)
    return replace(problem, extremes=columns_with_extremes(reading, data)) if spec.needs_well_conditioned else problem


def build_from_running_gram(
    spec: ModelSpec,
    rows: RunningGram,
    source: Callable[[TargetScaling], Source] | None = None,
    grid: LeaveOneOutGrid | None = None,
) -> Problem:
    """Return the least-squares problem for rows that were read in parts.

    Parameters
    ----------
    spec : ModelSpec
    rows : RunningGram
    source : callable, optional
        It takes a target scaling and returns the rows, if these can be read again.
    grid : LeaveOneOutGrid, optional
        The degrees and penalties from which leave-one-out chooses. It needs the source.
    """
    statistics, targets = rows.statistics, rows.targets
    if spec.is_monomial:
        units = np.ones_like(targets.scale)
        statistics = statistics.transformed(None, targets.scale, np.zeros_like(units))
        targets = replace(targets, scale=units)
    reading = NormalEquations(rows.basis, None, statistics, None)
    again, path = None if source is None else source(targets), None
    if again is not None and grid is not None:
        spec, reading, path = grid.choose(reading, again, targets)
    if again is None or not spec.needs_well_conditioned:
        return replace(build_from_gram(spec, reading, targets, rows.box, source=again), path=path)
    if reading.first is None:
        reading = well_conditioned(reading, again)
    problem = build_from_gram(spec, reading, targets, rows.box, source=again)
    return replace(problem, extremes=columns_with_extremes(reading, again), path=path)


def build_from_gram(
    spec: ModelSpec,
    reading: NormalEquations,
    targets: TargetScaling,
    box: Box,
    warm: Floats | None = None,
    source: Source | None = None,
) -> Problem:
    """Return the problem ``min c'Gc - 2 c'b + alpha c'Pc`` of a Gram matrix G.

    Parameters
    ----------
    spec : ModelSpec
    reading : NormalEquations
    targets : TargetScaling
    box : Box
    warm : ndarray of shape (n_terms, n_targets) or None
        Mean products of the features with the values from which training starts.
    source : Source, optional
        The rows, if they can be read again.
    """
    orthonormal = spec.basis == "orthonormal"
    objective_over = GramObjective.orthonormal if orthonormal else GramObjective.in_basis
    objective = objective_over(reading, spec.alpha, targets.scale)
    if source is not None and reading.rows is None:
        objective = _with_residuals(objective, reading, source)
    if not spec.is_monomial:
        # Optimizers that divide the gradient by its size, such as Adam, would follow rounding errors.
        is_rounding = np.abs(objective.rhs) < product_rounding(targets)
        objective = replace(objective, rhs=np.where(is_rounding, 0.0, objective.rhs))
    if warm is None:
        parameters = spec.initial_parameters(len(objective.rhs), targets)
    else:
        coordinates = reading.orthonormal_coordinates(spec.alpha)
        parameters = _warm_start(spec, reading, coordinates, warm)
        if not orthonormal:
            parameters = coordinates @ parameters
    return Problem(
        [Part(objective, parameters)],
        reading.basis,
        reading.transform,
        targets,
        box,
        reading.plain,
        values=spec.values,
        equations=reading,
        alpha=spec.alpha,
    )


def _with_residuals(objective: GramObjective, reading: NormalEquations, source: Source) -> GramObjective:
    """Return the objective with the mean squared residuals of the rows, if those of the Gram matrix are rounding.

    The Gram matrix gives them as differences of larger numbers.
    """
    size = objective.residual_size(objective.reference)
    if (np.square(size) > _MIN_RELATIVE_RESIDUAL * reading.statistics.target).all():
        return objective
    coefficients = objective.coefficients(objective.reference)
    if reading.transform is not None:
        coefficients = reading.transform @ coefficients

    def squares(block: Array) -> Floats:
        residuals = block[len(coefficients) :] - asarray_like(coefficients.T, block) @ block[: len(coefficients)]
        return to_numpy((residuals * residuals).sum(1))

    exact = source.total(reading.basis, squares) / reading.statistics.total_weight
    return replace(objective, min_value=objective.min_value + exact - np.square(size))


def _build_on_rows(
    spec: ModelSpec,
    reading: NormalEquations,
    data: TrainingRows,
    box: Box,
    *,
    single_target: bool,
    batch_size: int | None,
    in_stages: bool,
    warm: Floats | None = None,
) -> Problem:
    """Return the problem of a loss that needs the rows in each iteration.

    Without a warm start, training starts at the least squares or at a constant, whichever has the lower loss.
    """
    coordinates = reading.orthonormal_coordinates(spec.alpha)
    transform: Coordinates | None = coordinates
    if reading.transform is not None:
        transform = PrimalCoordinates(reading.transform @ cast(PrimalCoordinates, coordinates).matrix)
    least_squares = coordinates.rmatvec(reading.statistics.cross)
    origins = [least_squares if warm is None else _warm_start(spec, reading, coordinates, warm)]
    projection = None
    if spec.basis != "orthonormal":
        origins, transform = [coordinates @ origin for origin in origins], None
        projection = reading.projection()
    rows = LossRows.of(reading, transform, data, scale_targets=loss_class(spec.loss).scales_targets)
    if warm is None:
        initial_parameters = spec.initial_parameters(len(origins[0]), data.targets)
        origins = [initial_parameters] if spec.is_monomial else [initial_parameters, *origins]
        if not loss_class(spec.loss).scales_targets:
            # A loss such as PoissonNLLLoss takes y_pred as the logarithm of a rate, so y_pred = 0 is a start too.
            origins.append(-rows.constant * data.targets.center / data.targets.scale)
    stages = Stages.NONE if not in_stages else Stages.LAST if warm is not None else Stages.ALL
    scale, parts = data.targets, []
    # A user's loss can overflow at some of the starts. Another start then has a lower loss.
    with np.errstate(all="ignore"):
        losses = spec.losses(data, single_target, in_stages)
        for target, loss in enumerate(losses):
            own = slice(None) if len(losses) == 1 else slice(target, target + 1)
            rows_of_part = replace(rows, targets=rows.targets[own])
            starts = [origin[:, own] for origin in origins]
            may_bend = in_stages and not spec.is_monomial
            link = loss.rescale_for_link(rows.targets, rows.normalized_weights) if may_bend else None
            if link is not None:  # only callables have a link, and one callable is the loss of all targets
                constant, scale = link
                moves = rows.constant * (data.targets.center - scale.center)
                starts = [(start * data.targets.scale + moves) / scale.scale for start in starts]
                starts.append(rows.constant * (constant - scale.center) / scale.scale)
            rounding: Floats | float = 0.0
            if not (in_stages or spec.is_monomial or spec.is_robust):
                rounding = 2 * product_rounding(data.targets)[own]
            objective = RowObjective(rows_of_part, loss, starts, spec.alpha, stages, batch_size, projection, rounding)
            parts.append(Part(objective, np.zeros(objective.shape), loss))
    equations = reading if spec.is_least_squares else None
    return Problem(parts, reading.basis, None, scale, box, values=spec.values, equations=equations, alpha=spec.alpha)


def _warm_start(spec: ModelSpec, reading: NormalEquations, coordinates: Coordinates, products: Floats) -> Floats:
    """Return ``T' (G + alpha P) c``: coefficients c in coordinates T with ``T' (G + alpha P) T = I``.

    Parameters
    ----------
    spec : ModelSpec
    reading : NormalEquations
    coordinates : Coordinates
        The coordinates T.
    products : ndarray of shape (n_terms, n_targets)
        The products G c of the Gram matrix and the coefficients of the last polynomial.
    """
    if spec.alpha:
        unpenalized = reading.orthonormal_coordinates(0.0)
        coefficients = unpenalized @ unpenalized.rmatvec(products)
        products = products + spec.alpha * reading.basis.norm_weights[:, None] * coefficients
    return coordinates.rmatvec(products)


def _with_predictions(data: TrainingRows, warm: FittedPolynomial) -> TrainingRows:
    """Return the rows with the predictions of the last polynomial as further targets.

    If the predictions are too large, for example because X has other units now, they are left out. Training
    then starts without a warm start.
    """
    predictions = warm.predict(data.X, data.device).astype(np.float64)
    with np.errstate(over="ignore"):
        greatest = np.abs(data.targets.transform(predictions)).max()
    return data.with_more_targets(predictions) if greatest < _MAX_WARM_START else data
