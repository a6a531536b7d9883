"""Huber's loss with its scale."""

from __future__ import annotations

from copy import copy
from typing import ClassVar, cast

import numpy as np

from torchpoly._backend.device import asarray_like, namespace, to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._loss.base import LAST_WIDTH_RATIO, MIN_WIDTH, Loss, LossValues, Stages, typical_sizes


class HuberLoss(Loss):
    """``min_s mean(s + s H(r / s))`` of the residuals r: Huber's loss with concomitant scale s.

    ``H(z)`` is ``z**2`` up to epsilon and ``2 epsilon |z| - epsilon**2`` beyond [1]_. At the best scale,
    the mean of ``min(r**2, (epsilon s)**2)`` is ``s**2``, and the gradient by the predictions is that at a
    fixed scale. The loss is convex in predictions and scale, so its minimum over the scale is convex in
    the predictions.

    If most residuals can be 0, for example with nearly as many terms as rows, the scale falls to 0 and
    the loss becomes the absolute error. So there are stages with a lower bound of the scale. Each stage
    halves the bound, until the scale is above it.

    Parameters
    ----------
    target_scale : ndarray of shape (n_targets,)
        The scale of y in :class:`TargetScaling`.
    epsilon : float
        At least 1.

    Attributes
    ----------
    scale : ndarray of shape (n_targets,) or None
        s at the latest evaluation, for scaled residuals.

    References
    ----------
    .. [1] A. B. Owen, "A robust hybrid of lasso and ridge regression", Contemporary Mathematics 443
       (2007), 59-72; as in :class:`sklearn.linear_model.HuberRegressor`.
    """

    parameters: ClassVar[tuple[str, ...]] = ("epsilon",)
    attributes = ("scale_",)
    is_robust = True

    def __init__(self, target_scale: Floats, *, epsilon: float) -> None:
        super().__init__(target_scale)
        self._epsilon = float(epsilon)
        self._fixed = False
        self._floor = np.full(len(target_scale), MIN_WIDTH)
        self.scale: Floats | None = None

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Begin with a bound that exceeds most scales, or for a warm start with the last bound."""
        finest = self._finest(targets - predictions, normalized_weights)
        if stages is not Stages.NONE:
            self._floor = finest / LAST_WIDTH_RATIO / 4 if stages is Stages.ALL else finest
        self._bound(targets - predictions, normalized_weights, finest)
        # The last bound is relative to these residuals. After a warm start, residuals may become much smaller.
        self.is_last_stage &= stages is not Stages.LAST

    def stage_tol(self, parameters_per_row: float) -> float:
        """Return the gradient entry that corresponds to the change of the value by the next bound."""
        return float(np.sqrt(self._floor.min() * parameters_per_row))

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Halve the bounds that are active, or reduce them to a quarter of the median residual; drop the others."""
        finest = self._finest(targets - predictions, normalized_weights)
        reached = cast(Floats, self.scale) <= self._floor
        lower = np.minimum(self._floor / 2, finest / LAST_WIDTH_RATIO / 4)
        self._floor = np.maximum(np.where(reached, lower, 0.0), finest)
        self._bound(targets - predictions, normalized_weights, finest)

    def _bound(self, residuals: Array, normalized_weights: Array, finest: Floats) -> None:
        """Compute the scale within the new bounds."""
        self.is_last_stage = bool((self._floor <= finest).all())
        self.scale = self._best_scales(residuals * residuals, normalized_weights)
        self.fd_step = float(self.scale.mean())

    def _finest(self, residuals: Array, normalized_weights: Array) -> Floats:
        return np.maximum(LAST_WIDTH_RATIO * typical_sizes(residuals, normalized_weights), MIN_WIDTH)

    def hessian_weights(self, predictions: Array, targets: Array) -> Array:
        """Return ``2 / s * max(1, |r| / (epsilon s))**-2.5``.

        The second derivative is ``2 / s`` up to ``epsilon s`` and 0 beyond. The exponent is that of the
        pinball loss.
        """
        xp, scale = namespace(predictions), cast(Floats, self.scale)[:, None]
        sizes = xp.abs(targets - predictions)
        beyond = sizes / asarray_like(self._epsilon * scale, sizes)
        return asarray_like(2.0 / scale, sizes) * xp.maximum(beyond, asarray_like(np.ones(1), sizes)) ** -2.5

    def for_minibatch(self) -> HuberLoss:
        """Return the loss with the scale fixed at the latest one: a mini-batch is too small to estimate it."""
        fixed = copy(self)
        fixed._fixed = True
        return fixed

    def fitted_attributes(self) -> dict[str, Floats]:
        """Return the scale for residuals of y."""
        return {"scale_": cast(Floats, self.scale) * self._target_scale}

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Return the value and the gradient of the loss."""
        xp = namespace(predictions)
        residuals = targets - predictions
        sizes = xp.abs(residuals)
        if not self._fixed:
            self.scale = self._best_scales(sizes * sizes, normalized_weights)
        scale = cast(Floats, self.scale)
        column = asarray_like(scale[:, None], predictions)
        # r^2 / s up to e = epsilon s, and (2 e |r| - e^2) / s beyond.
        inner = xp.minimum(sizes, asarray_like((self._epsilon * scale)[:, None], sizes))
        weighted = inner * normalized_weights
        values = scale + to_numpy((weighted * (2.0 * sizes - inner)).sum(1)) / scale
        return LossValues(values, values * self._target_scale, xp.copysign(weighted, -residuals) * (2.0 / column))

    def _best_scales(self, squares: Array, normalized_weights: Array) -> Floats:
        """Newton's method for the greatest root s of ``mean(min(r**2, (epsilon s)**2)) - s**2`` of each target.

        The function is concave and piecewise linear in s**2. The first step ends to the right of the root.
        From there, the root is found in finitely many steps.
        """
        roots = np.zeros(len(squares))
        # With epsilon = 1, all scales up to the least residual have the same loss.
        for target, row in enumerate(squares if self._epsilon > 1.0 else ()):
            everything = float(row @ normalized_weights)
            latest = everything if self.scale is None else self.scale[target] ** 2
            root = self._newton_step(latest, everything, row, normalized_weights)
            while (following := self._newton_step(root, everything, row, normalized_weights)) < root * (1 - 1e-14):
                root = following
            roots[target] = root
        return np.maximum(np.sqrt(roots), self._floor)

    def _newton_step(self, square: float, everything: float, squares: Array, normalized_weights: Array) -> float:
        within = normalized_weights * (squares <= self._epsilon**2 * square)
        falling = 1.0 - self._epsilon**2 * (1.0 - float(within.sum()))
        return float(squares @ within) / falling if falling > 0.0 else everything
