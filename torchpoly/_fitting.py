"""From validated data to what training minimises, and back to a polynomial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from torchpoly._basis import Basis
from torchpoly._box import Box
from torchpoly._callable_loss import CallableLoss, LossFunction
from torchpoly._conditioning import Source, well_conditioned
from torchpoly._coordinates import EPSILON, Coordinates, TermCoordinates
from torchpoly._device import Device
from torchpoly._domain import Domain
from torchpoly._extremes import columns_with_extremes
from torchpoly._fitted import FittedPolynomial
from torchpoly._index_set import IndexSet
from torchpoly._losses import LOSSES, Loss, Stages
from torchpoly._objective import GramObjective
from torchpoly._reading import Data, Reading
from torchpoly._row_objective import RowObjective
from torchpoly._rows import Rows
from torchpoly._rows_of_arrays import Floats
from torchpoly._target_scaling import TargetScaling
from torchpoly._target_statistics import mean_and_deviation, median_and_deviation

# From predictions further off, in deviations of y, training does not start.
_GREATEST_START = 1e70

# Mean products of features and targets, of variance 1, are rounded to so many units in the last place.
_ROUNDING = 128


@dataclass(frozen=True)
class Part:
    """What is minimised on its own.

    Parameters
    ----------
    objective : GramObjective or RowObjective
    parameters : ndarray of shape (rank, n_targets)
        Trained in place.
    loss : Loss or None
        The loss over the rows, if they are needed.
    """

    objective: GramObjective | RowObjective
    parameters: Floats
    loss: Loss | None = None

    @property
    def program(self) -> RowObjective | None:
        """The objective, where it is a linear program."""
        objective = self.objective
        return objective if isinstance(objective, RowObjective) and objective.is_linear_program else None


@dataclass(frozen=True)
class Problem:
    """What a fit minimises, and what the parameters mean.

    Parameters
    ----------
    parts : list of Part
        For all targets, or one for each in their order.
    basis : Basis
        The features.
    mixing : ndarray of shape (n_terms, n_mixed) or None
        What the objective's coefficients combine; None stands for the features.
    targets : TargetScaling
        What the targets are scaled by.
    box : Box
        Of the rows of positive weight.
    read : Reading or None
        What has been read of the rows, if that is all that least squares need.
    extremes : ndarray of int or None
        Columns without whose extreme values more terms are independent.
    """

    parts: list[Part]
    basis: Basis
    mixing: Floats | None
    targets: TargetScaling
    box: Box
    read: Reading | None = None
    extremes: NDArray[np.intp] | None = None

    def fitted_attributes(self, single_target: bool) -> dict[str, Any]:
        """Return the attributes of an estimator whose training ends here."""
        coefficients = np.hstack([part.objective.coefficients(part.parameters) for part in self.parts])
        if self.mixing is not None:
            coefficients = self.mixing @ coefficients
        attributes = {
            "_polynomial": FittedPolynomial(self.basis, coefficients, self.targets, self.box.low, self.box.high),
            "_single_target": single_target,
            "rank_": len(self.parts[0].parameters),
        }
        estimated = [part.loss.fitted_attributes() for part in self.parts if part.loss is not None]
        for name in estimated[0] if estimated else ():
            values = np.concatenate([one[name] for one in estimated])
            attributes[name] = float(values[0]) if single_target else values
        gaps = [part.program.dual_gap for part in self.parts if part.program is not None]
        if gaps and all(gap is not None for gap in gaps):
            gap = np.concatenate(cast(list[Floats], gaps))
            attributes["dual_gap_"] = float(gap[0]) if single_target else gap
        return attributes

    def batches(
        self, n_rows: int, random_state: int | np.random.RandomState | None
    ) -> Callable[[], Iterator[tuple[float, RowObjective]]] | None:
        """Return what shuffles the rows into mini-batches for a pass; None where there are none."""
        objective = self.parts[0].objective
        if isinstance(objective, GramObjective) or not objective.has_batches:
            return None
        random = check_random_state(0 if random_state is None else random_state)
        return lambda: objective.batches(random.permutation(n_rows))


def _rounding(targets: TargetScaling) -> Floats:
    """Return the size of mean products of features and targets that are rounding.

    Targets have a spread of 1, but beside a large offset they are rounded to a share of that.
    """
    return (_ROUNDING + 2 * np.abs(targets.center) / targets.scale) * EPSILON


def average_curves(curves: list[Floats]) -> Floats:
    """Return the mean of the parts' losses after each iteration; a part that has ended keeps its last."""
    if len(curves) == 1:
        return curves[0]
    length = max(map(len, curves))
    return np.mean([np.pad(curve, (0, length - len(curve)), mode="edge") for curve in curves], axis=0)


def loss_class(loss: str | LossFunction) -> Any:
    """Return the class of a loss, by its name or for a callable."""
    return LOSSES[loss] if isinstance(loss, str) else CallableLoss


@dataclass(frozen=True)
class Model:
    """The parameters of the estimator that say what is minimised; there they are documented."""

    degree: int
    loss: str | LossFunction
    loss_options: dict[str, Any]
    alpha: float
    basis: str
    interaction_only: bool

    @property
    def is_least_squares(self) -> bool:
        """Whether a Gram matrix says all that the loss needs."""
        return self.loss == "squared_error"

    def pose(
        self,
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
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        weights : ndarray of shape (n_samples,) or None
        box : Box
            Of the rows of positive weight.
        device : torch.device or None
        batch_size : int or None
            How many rows there are to a step; None for all.
        in_stages : bool
            Whether the loss may be minimised in stages.
        warm : FittedPolynomial or None
            From which training starts.
        on_chunk : callable or None
            Is called after each chunk of rows that is read.
        """
        data = self.data(X, y, weights, device, on_chunk)
        # What the polynomial so far predicts is read as further targets: their least squares are
        # its coefficients in the new basis, whatever that is.
        extended = data if warm is None else self._with_predictions(data, warm)
        reading, more = self.read(extended, box).split(data.Y.shape[1])
        problem = self.pose_read(
            reading,
            data,
            box,
            single_target=y.ndim == 1,
            batch_size=batch_size,
            in_stages=in_stages,
            warm=None if extended is data else more,
        )
        return replace(problem, extremes=self.columns_with_extremes(reading, data))

    def columns_with_extremes(self, reading: Reading, source: Source) -> NDArray[np.intp] | None:
        """Return the columns of which a few values hide terms; None where the rows are not read again."""
        return columns_with_extremes(reading, source) if self.needs_well_conditioned else None

    @staticmethod
    def _with_predictions(data: Data, warm: FittedPolynomial) -> Data:
        """Return the data with what the polynomial so far predicts.

        In other units than these, that can be out of all proportion: then training starts anew.
        """
        predictions = warm.predict(data.X, data.device).astype(np.float64)
        with np.errstate(over="ignore"):
            greatest = np.abs(data.targets.transform(predictions)).max()
        return data.with_more_targets(predictions) if greatest < _GREATEST_START else data

    def data(
        self,
        X: NDArray,
        y: NDArray,
        weights: Floats | None,
        device: Device,
        on_chunk: Callable[[], object] | None = None,
    ) -> Data:
        """Return the rows with the scale of their targets. Parameters are those of :meth:`pose`."""
        Y = y.reshape(len(y), -1)
        return Data(X, Y, weights, self._targets(Y, weights), device, on_chunk)

    def read(self, data: Data, box: Box) -> Reading:
        """Read the rows, whose columns span the box."""
        first = data.read(self.features(box))
        return well_conditioned(first, data) if self.needs_well_conditioned else first

    @property
    def needs_well_conditioned(self) -> bool:
        """Whether rows are read again where their Gram matrix has too few digits to tell terms apart."""
        return self.basis == "orthonormal" and self.alpha == 0

    @property
    def _is_robust(self) -> bool:
        """Whether targets are centered at their medians, not at their means."""
        return loss_class(self.loss).is_robust

    def pose_read(
        self,
        reading: Reading,
        data: Data,
        box: Box,
        *,
        single_target: bool,
        batch_size: int | None,
        in_stages: bool,
        warm: Floats | None = None,
    ) -> Problem:
        """Return the problem of fitting rows that have been read.

        Parameters
        ----------
        reading : Reading
        data : Data
        box : Box
        single_target : bool
            Whether y has one dimension.
        batch_size, in_stages
            As for :meth:`pose`.
        warm : ndarray of shape (n_terms, n_targets) or None
            Mean products of the features with the values from which training starts.
        """
        if self.is_least_squares and batch_size is None:
            return self.on_gram(reading, data.targets, box, warm)
        return self._on_rows(
            reading, data, box, single_target=single_target, batch_size=batch_size, in_stages=in_stages, warm=warm
        )

    def _losses(self, data: Data, single_target: bool, in_stages: bool) -> list[Loss]:
        """Return the loss of all targets, or one for each where they have stages of their own."""
        if isinstance(self.loss, str):
            units = data.targets.scale
            parts = np.split(units, len(units)) if in_stages else [units]
            return [LOSSES[self.loss](part, **self.loss_options) for part in parts]
        weighted = data.weights is not None and len(np.unique(data.weights[data.weights > 0])) > 1
        return [CallableLoss(self.loss, data.targets, single_target=single_target, weighted=weighted)]

    def _targets(self, Y: NDArray, weights: Floats | None) -> TargetScaling:
        """Return the scale of the targets, which outliers do not move where the loss is robust."""
        if self._is_robust:
            targets = median_and_deviation(Y, weights)
        else:
            targets = mean_and_deviation(Y, weights)
        return replace(targets, scale=np.ones_like(targets.scale)) if self.is_textbook else targets

    @property
    def is_textbook(self) -> bool:
        """Whether features are raw powers of raw X, for raw y."""
        return self.basis == "monomial"

    def features(self, box: Box) -> Basis:
        """Return the basis for rows whose columns span the box."""
        if self.is_textbook:
            return Basis(Domain.identity(len(box)), self.indices(len(box)), "power")
        return Basis.spanning(box, self.degree, self.interaction_only)

    def indices(self, n_features: int, values: Sequence[Floats | None] | None = None) -> IndexSet:
        """Return the terms of so many columns, of which those of few values have few powers."""
        if self.is_textbook or values is None:
            return IndexSet(n_features, self.degree, self.interaction_only)
        return IndexSet.on_values(values, self.degree, self.interaction_only)

    def zero(self, n_terms: int, targets: TargetScaling) -> Floats:
        """Return the coefficients at which training starts: 0, and with raw powers so for y as it is."""
        origin = np.zeros((n_terms, len(targets.center)))
        if self.is_textbook:
            origin[0] = -targets.center
        return origin

    def on_gram(self, reading: Reading, targets: TargetScaling, box: Box, warm: Floats | None = None) -> Problem:
        """Pose least squares, for which what has been read is enough. Parameters are those of :meth:`pose_read`."""
        orthonormal = self.basis == "orthonormal"
        objective_over = GramObjective.orthonormal if orthonormal else GramObjective.in_basis
        objective = objective_over(reading, self.alpha, targets.scale)
        if not self.is_textbook:
            # Optimizers that divide the gradient by its own size would take rounding for a direction to go.
            is_rounding = np.abs(objective.linear) < _rounding(targets)
            objective = replace(objective, linear=np.where(is_rounding, 0.0, objective.linear))
        if warm is None:
            parameters = self.zero(len(objective.linear), targets)
        else:
            coordinates = reading.orthonormal_coordinates(self.alpha)
            parameters = self._warm(reading, coordinates, warm)
            if not orthonormal:
                parameters = coordinates @ parameters
        return Problem([Part(objective, parameters)], reading.basis, reading.mixing, targets, box, reading.plain)

    def _on_rows(
        self,
        reading: Reading,
        data: Data,
        box: Box,
        *,
        single_target: bool,
        batch_size: int | None,
        in_stages: bool,
        warm: Floats | None = None,
    ) -> Problem:
        """Pose the problem on the rows: a cold start is at the best of the least squares and constants.

        Parameters are those of :meth:`pose_read`.
        """
        coordinates = reading.orthonormal_coordinates(self.alpha)
        mixing: Coordinates | None = coordinates
        if reading.mixing is not None:
            mixing = TermCoordinates(reading.mixing @ cast(TermCoordinates, coordinates).matrix)
        least_squares = coordinates.pull(reading.statistics.cross)
        origins = [least_squares if warm is None else self._warm(reading, coordinates, warm)]
        projection = None
        if self.basis != "orthonormal":
            origins, mixing = [coordinates @ origin for origin in origins], None
            projection = reading.projection()
        rows = Rows.of(reading, mixing, data, scale_targets=loss_class(self.loss).scales_targets)
        if warm is None:
            zero = self.zero(len(origins[0]), data.targets)
            origins = [zero] if self.is_textbook else [zero, *origins]
            if not loss_class(self.loss).scales_targets:
                # A loss that takes the logarithm of a rate, say, is at home near y_pred = 0.
                origins.append(-rows.constant * data.targets.center / data.targets.scale)
        stages = Stages.NONE if not in_stages else Stages.LAST if warm is not None else Stages.ALL
        scale, parts = data.targets, []
        # Of the starts, a loss of the user's own may overflow at some.
        with np.errstate(all="ignore"):
            losses = self._losses(data, single_target, in_stages)
            for target, loss in enumerate(losses):
                own = slice(None) if len(losses) == 1 else slice(target, target + 1)
                rows_of_part = replace(rows, targets=rows.targets[own])
                starts = [origin[:, own] for origin in origins]
                may_bend = in_stages and not self.is_textbook
                link = loss.take_link(rows.targets, rows.shares) if may_bend else None
                if link is not None:  # a callable is the only loss, of all targets
                    constant, scale = link
                    moves = rows.constant * (data.targets.center - scale.center)
                    starts = [(start * data.targets.scale + moves) / scale.scale for start in starts]
                    starts.append(rows.constant * (constant - scale.center) / scale.scale)
                rounding: Floats | float = 0.0
                if not (in_stages or self.is_textbook or self._is_robust):
                    rounding = 2 * _rounding(data.targets)[own]
                objective = RowObjective(
                    rows_of_part, loss, starts, self.alpha, stages, batch_size, projection, rounding
                )
                parts.append(Part(objective, np.zeros(objective.shape), loss))
        return Problem(parts, reading.basis, None, scale, box)

    def _warm(self, reading: Reading, coordinates: Coordinates, products: Floats) -> Floats:
        """Return the polynomial so far in these coordinates T, for which ``T' (G + alpha P) T`` is the identity.

        With its coefficients c, and their products with the features G c, that is
        ``T' (G + alpha P) c``.
        """
        if self.alpha:
            unpenalized = reading.orthonormal_coordinates(0.0)
            coefficients = unpenalized @ unpenalized.pull(products)
            products = products + self.alpha * reading.basis.norm_weights[:, None] * coefficients
        return coordinates.pull(products)
