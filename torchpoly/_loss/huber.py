"""Huber's loss with its scale."""

from __future__ import annotations

from copy import copy
from typing import ClassVar, cast

import numpy as np

from torchpoly._backend.device import asarray_like, namespace, to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._loss.base import FINEST, RESOLUTION, Loss, LossValues, Stages, typical_sizes


class HuberLoss(Loss):
    """Huber's loss with its scale, which is estimated jointly.

    It is the mean over the rows of ``s + s H(r / s)`` at the scale s that makes it least, where
    ``H(z)`` is ``z**2`` up to epsilon and ``2 epsilon |z| - epsilon**2`` beyond [1]_. It is least
    where the mean of ``min(r**2, (epsilon s)**2)`` is ``s**2``. There its slopes by the predictions
    are the ones at a fixed scale. Convex in both, it stays convex in the predictions alone.

    Where most residuals can vanish, as with nearly as many terms as rows, the scale falls to 0 and
    the loss becomes the absolute error. So training goes on in stages: with a lower bound of the
    scale that is halved until it is in nothing's way.

    Parameters
    ----------
    target_scale : ndarray of shape (n_targets,)
        The units of training in the units of y.
    epsilon : float
        At least 1.

    Attributes
    ----------
    scale : ndarray of shape (n_targets,) or None
        s at the latest evaluation, in units of training.

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
        self._floor = np.full(len(target_scale), RESOLUTION)
        self.scale: Floats | None = None

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Begin with a bound that few scales are below, or with the last one."""
        finest = self._finest(targets - predictions, normalized_weights)
        if stages is not Stages.NONE:
            self._floor = finest / FINEST / 4 if stages is Stages.ALL else finest
        self._bound(targets - predictions, normalized_weights, finest)
        # The last bound is that of these residuals; where training ends they may be far smaller.
        self.is_last_stage &= stages is not Stages.LAST

    def stage_tol(self, share: float) -> float:
        """Return what leaves as much of the value as the next bound can change."""
        return float(np.sqrt(self._floor.min() * share))

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Halve the bounds that the scale has come to, or more if residuals are far smaller; drop the others."""
        finest = self._finest(targets - predictions, normalized_weights)
        reached = cast(Floats, self.scale) <= self._floor
        lower = np.minimum(self._floor / 2, finest / FINEST / 4)
        self._floor = np.maximum(np.where(reached, lower, 0.0), finest)
        self._bound(targets - predictions, normalized_weights, finest)

    def _bound(self, residuals: Array, normalized_weights: Array, finest: Floats) -> None:
        """Find the scale within the new bounds."""
        self.is_last_stage = bool((self._floor <= finest).all())
        self.scale = self._best_scales(residuals * residuals, normalized_weights)
        self.fd_step = float(self.scale.mean())

    def _finest(self, residuals: Array, normalized_weights: Array) -> Floats:
        return np.maximum(FINEST * typical_sizes(residuals, normalized_weights), RESOLUTION)

    def hessian_weights(self, predictions: Array, targets: Array) -> Array:
        """Return ``2 / s`` up to epsilon s, and beyond, where it is 0, what falls as the pinball loss's."""
        scale = cast(Floats, self.scale)[:, None]
        sizes = namespace(predictions).abs(targets - predictions)
        beyond = sizes / asarray_like(self._epsilon * scale, sizes)
        return (
            asarray_like(2.0 / scale, sizes) * namespace(sizes).maximum(beyond, asarray_like(np.ones(1), sizes)) ** -2.5
        )

    def for_minibatch(self) -> HuberLoss:
        """Return the loss at the latest scale: a batch is too small to have one of its own."""
        fixed = copy(self)
        fixed._fixed = True
        return fixed

    def fitted_attributes(self) -> dict[str, Floats]:
        """Return the scale in the units of y."""
        return {"scale_": cast(Floats, self.scale) * self._target_scale}

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Evaluate the loss."""
        xp = namespace(predictions)
        residuals = targets - predictions
        sizes = xp.abs(residuals)
        if not self._fixed:
            self.scale = self._best_scales(sizes * sizes, normalized_weights)
        scale = cast(Floats, self.scale)
        column = asarray_like(scale[:, None], predictions)
        # Within: r^2 / s. Beyond, with e = epsilon s: (2 e |r| - e^2) / s.
        inner = xp.minimum(sizes, asarray_like((self._epsilon * scale)[:, None], sizes))
        weighted = inner * normalized_weights
        values = scale + to_numpy((weighted * (2.0 * sizes - inner)).sum(1)) / scale
        return LossValues(values, values * self._target_scale, xp.copysign(weighted, -residuals) * (2.0 / column))

    def _best_scales(self, squares: Array, normalized_weights: Array) -> Floats:
        """Return each target's greatest root s of ``mean(min(r**2, (epsilon s)**2)) - s**2``.

        In s**2 that is concave and made of straight pieces. Newton's method ends at the root after
        finitely many steps from its right, and its first step leads there.
        """
        roots = np.zeros(len(squares))
        # At an epsilon of 1, all scales up to the least residual are equally good.
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
