"""From rows, or what has been read of them, to what training minimizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device
from torchpoly._backend.rows import Floats
from torchpoly._estimator.spec import ModelSpec, loss_class
from torchpoly._gram.conditioning import well_conditioned
from torchpoly._gram.coordinates import Coordinates, PrimalCoordinates
from torchpoly._gram.extremes import columns_with_extremes
from torchpoly._gram.merging import RunningGram
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.reading import TrainingRows
from torchpoly._gram.source import Source
from torchpoly._gram.whitening import EPSILON
from torchpoly._loss.base import Stages
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.fitted import FittedPolynomial
from torchpoly._polynomial.target_scaling import TargetScaling
from torchpoly._train.gram_objective import GramObjective
from torchpoly._train.loss_rows import LossRows
from torchpoly._train.problem import Part, Problem
from torchpoly._train.row_objective import RowObjective

# From predictions further off, in deviations of y, training does not start.
_GREATEST_START = 1e70

# Mean products of features and targets, of variance 1, are rounded to so many units in the last place.
_PRODUCT_ROUNDING = 128


def build_from_rows(
    spec: ModelSpec,
    X: NDArray,
    y: NDArray,
    weights: Floats | None,
    box: Box,
    *,
    device: Device,
    batch_size: int | None,
    in_stages: bool,
    warm: FittedPolynomial | None,
    on_chunk: Callable[[], object] | None,
) -> Problem:
    """Read the rows and return the problem of fitting them.

    Parameters
    ----------
    spec : ModelSpec
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
    weights : ndarray of shape (n_samples,) or None
    box : Box
        Of the rows of positive weight.
    device : torch.device or None
    batch_size : int or None
        How many rows there are to a step; None for all.
    in_stages : bool
        Whether the loss may be minimized in stages.
    warm : FittedPolynomial or None
        From which training starts.
    on_chunk : callable or None
        Is called after each chunk of rows that is read.
    """
    data = spec.data(X, y, weights, device, on_chunk)
    # What the polynomial so far predicts is read as further targets: their least squares are
    # its coefficients in the new basis, whatever that is.
    extended = data if warm is None else _with_predictions(data, warm)
    reading = extended.read(spec.basis_for(box))
    if spec.needs_well_conditioned:
        reading = well_conditioned(reading, extended)
    reading, more = reading.split(data.Y.shape[1])
    start = None if extended is data else more
    if spec.is_least_squares and batch_size is None:
        problem = build_from_gram(spec, reading, data.targets, box, start)
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
    return replace(problem, extremes=columns_with_extremes(reading, data)) if spec.needs_well_conditioned else problem


def build_from_running_gram(
    spec: ModelSpec, rows: RunningGram, source: Callable[[TargetScaling], Source] | None = None
) -> Problem:
    """Return the problem of fitting rows that were read in parts.

    Parameters
    ----------
    spec : ModelSpec
    rows : RunningGram
    source : callable, optional
        Returns the rows with scaled targets, if they can be read again.
    """
    statistics, targets = rows.statistics, rows.targets
    if spec.is_monomial:
        units = np.ones_like(targets.scale)
        statistics = statistics.transformed(None, targets.scale, np.zeros_like(units))
        targets = replace(targets, scale=units)
    reading = NormalEquations(rows.basis, None, statistics, None)
    if source is None or not spec.needs_well_conditioned:
        return build_from_gram(spec, reading, targets, rows.box)
    again = source(targets)
    reading = well_conditioned(reading, again)
    problem = build_from_gram(spec, reading, targets, rows.box)
    return replace(problem, extremes=columns_with_extremes(reading, again))


def build_from_gram(
    spec: ModelSpec, reading: NormalEquations, targets: TargetScaling, box: Box, warm: Floats | None = None
) -> Problem:
    """Return the problem of least squares, for which what has been read of the rows is enough.

    Parameters
    ----------
    spec : ModelSpec
    reading : NormalEquations
    targets : TargetScaling
    box : Box
    warm : ndarray of shape (n_terms, n_targets) or None
        Mean products of the features with the values from which training starts.
    """
    orthonormal = spec.basis == "orthonormal"
    objective_over = GramObjective.orthonormal if orthonormal else GramObjective.in_basis
    objective = objective_over(reading, spec.alpha, targets.scale)
    if not spec.is_monomial:
        # Optimizers that divide the gradient by its own size would take rounding for a direction to go.
        is_rounding = np.abs(objective.rhs) < _rounding(targets)
        objective = replace(objective, rhs=np.where(is_rounding, 0.0, objective.rhs))
    if warm is None:
        parameters = spec.initial_parameters(len(objective.rhs), targets)
    else:
        coordinates = reading.orthonormal_coordinates(spec.alpha)
        parameters = _warm_start(spec, reading, coordinates, warm)
        if not orthonormal:
            parameters = coordinates @ parameters
    return Problem([Part(objective, parameters)], reading.basis, reading.transform, targets, box, reading.plain)


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
    """Return the problem of a loss that needs the rows.

    A cold start is at the best of the least squares and constants.
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
            # A loss that takes the logarithm of a rate, say, is at home near y_pred = 0.
            origins.append(-rows.constant * data.targets.center / data.targets.scale)
    stages = Stages.NONE if not in_stages else Stages.LAST if warm is not None else Stages.ALL
    scale, parts = data.targets, []
    # Of the starts, a loss of the user's own may overflow at some.
    with np.errstate(all="ignore"):
        losses = spec.losses(data, single_target, in_stages)
        for target, loss in enumerate(losses):
            own = slice(None) if len(losses) == 1 else slice(target, target + 1)
            rows_of_part = replace(rows, targets=rows.targets[own])
            starts = [origin[:, own] for origin in origins]
            may_bend = in_stages and not spec.is_monomial
            link = loss.take_link(rows.targets, rows.normalized_weights) if may_bend else None
            if link is not None:  # a callable is the only loss, of all targets
                constant, scale = link
                moves = rows.constant * (data.targets.center - scale.center)
                starts = [(start * data.targets.scale + moves) / scale.scale for start in starts]
                starts.append(rows.constant * (constant - scale.center) / scale.scale)
            rounding: Floats | float = 0.0
            if not (in_stages or spec.is_monomial or spec.is_robust):
                rounding = 2 * _rounding(data.targets)[own]
            objective = RowObjective(rows_of_part, loss, starts, spec.alpha, stages, batch_size, projection, rounding)
            parts.append(Part(objective, np.zeros(objective.shape), loss))
    return Problem(parts, reading.basis, None, scale, box)


def _warm_start(spec: ModelSpec, reading: NormalEquations, coordinates: Coordinates, products: Floats) -> Floats:
    """Return the polynomial so far in these coordinates T, for which ``T' (G + alpha P) T`` is the identity.

    With its coefficients c, and their products with the features G c, that is
    ``T' (G + alpha P) c``.
    """
    if spec.alpha:
        unpenalized = reading.orthonormal_coordinates(0.0)
        coefficients = unpenalized @ unpenalized.rmatvec(products)
        products = products + spec.alpha * reading.basis.norm_weights[:, None] * coefficients
    return coordinates.rmatvec(products)


def _with_predictions(data: TrainingRows, warm: FittedPolynomial) -> TrainingRows:
    """Return the data with what the polynomial so far predicts.

    In other units than these, that can be out of all proportion: then training starts anew.
    """
    predictions = warm.predict(data.X, data.device).astype(np.float64)
    with np.errstate(over="ignore"):
        greatest = np.abs(data.targets.transform(predictions)).max()
    return data.with_more_targets(predictions) if greatest < _GREATEST_START else data


def _rounding(targets: TargetScaling) -> Floats:
    """Return the size of mean products of features and targets that are rounding.

    Targets have a spread of 1, but beside a large offset they are rounded to a share of that.
    """
    return (_PRODUCT_ROUNDING + 2 * np.abs(targets.center) / targets.scale) * EPSILON
