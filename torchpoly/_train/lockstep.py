"""Training in lockstep: the parameters of many candidates are parts of one tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, cast

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._train.gram_objective import GramObjective
from torchpoly._train.loop import build, default_rate, warn_not_converged
from torchpoly._train.optimizers import OptimizerSpec

if TYPE_CHECKING:
    import torch

# torch uses several threads for larger tensors, and to wake them takes longer than the update.
_MAX_THREAD_ELEMENTS = 2**15

# With a greater gradient entry, the value may overflow.
_MAX_GRADIENT = 1e150


@dataclass
class Lane:
    """The training of one candidate.

    Parameters
    ----------
    objective : GramObjective
    parameters : ndarray of shape (n_parameters, n_targets)
        The initial parameters, and after training the final parameters.
    spec : OptimizerSpec
    n_iter : int
    tol : float or None

    Attributes
    ----------
    failure : Exception or str or None
        The reason why this candidate has to be trained alone; None for success. Either the optimizer raised
        for one of the lanes, or the gradient became so large that the value may overflow.
    """

    objective: GramObjective
    parameters: Floats
    spec: OptimizerSpec
    n_iter: int
    tol: float | None
    failure: Exception | str | None = None

    @property
    def _optimizer(self) -> tuple[Hashable, ...]:
        """Lanes with the same value can be trained by one optimizer object."""
        options = sorted((name, _hashable(value)) for name, value in self.spec.options.items() if name != "lr")
        return self.spec.factory, *options

    @property
    def _rate(self) -> tuple[Hashable, ...]:
        """Lanes with the same value have the same learning rate in each iteration."""
        lr = _hashable(self.spec.options["lr"])
        return (lr, self.n_iter, self.objective.curvature) if self.spec.lr_is_default else (lr,)


def _hashable(value: object) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)


def train_in_lockstep(lanes: Iterable[Lane]) -> None:
    """Train each lane to the result of :func:`minimize`. Each lane has its own tolerance.

    Warns
    -----
    ConvergenceWarning
        For each lane that does not meet `tol` in `n_iter` iterations.
    """
    together = defaultdict(list)
    for lane in sorted(lanes, key=_matrix):
        together[lane._optimizer].append(lane)
    for group in together.values():
        try:
            _train(group)
        except Exception as error:  # optimizers raise exceptions of all types for invalid options
            for lane in group:
                lane.failure = error


def _matrix(lane: Lane) -> int:
    """Return an identifier of the Gram matrix of a lane; 0 for orthonormal coordinates."""
    gram = lane.objective.gram
    return 0 if gram is None else id(gram)


def _train(lanes: list[Lane]) -> None:
    """Train lanes with one optimizer object."""
    import torch

    by_rate = defaultdict(list)
    for lane in lanes:
        by_rate[lane._rate].append(lane)
    lanes = list(chain(*by_rate.values()))
    slopes_at = _Gradients(lanes)
    begun = [lane.parameters for lane in lanes]
    sizes = np.array([parameters.size for parameters in begun])
    ends = np.cumsum(sizes)
    starts = ends - sizes
    flat = np.concatenate([parameters.ravel() for parameters in begun])
    gradient = np.empty_like(flat)
    tolerances = np.array([-1.0 if lane.tol is None else lane.tol for lane in lanes])
    n_iters = np.array([lane.n_iter for lane in lanes])
    running = np.ones(len(lanes), dtype=bool)
    last_max_abs_grad = np.zeros(len(lanes))
    # A candidate that diverges is trained again alone, and that training reports it.
    with np.errstate(all="ignore"):
        slopes_at(flat, gradient)
        tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
        groups, rates, first = [], [], 0
        for group in by_rate.values():
            spec, objective = group[0].spec, group[0].objective
            last = first + len(group)
            parts = _parts(starts[first], ends[last - 1])
            trained = [torch.from_numpy(flat[part]).requires_grad_() for part in parts]
            tensors += zip(trained, [torch.from_numpy(gradient[part]) for part in parts], strict=True)
            groups.append({"params": trained, "lr": spec.options["lr"]})
            rates.append(default_rate(spec, objective, gradient, group[0].n_iter))
            first = last
        optimizer = build(lanes[0].spec, groups, lanes[0].objective)
        for iteration in range(n_iters.max()):
            for options, rate in zip(optimizer.param_groups, rates, strict=True):
                if rate is not None:
                    options["lr"] = rate(iteration)
            for tensor, slope in tensors:
                tensor.grad = slope
            optimizer.step()
            slopes_at(flat, gradient)
            max_abs_grad = np.maximum.reduceat(np.abs(gradient), starts)
            over = ~(max_abs_grad < _MAX_GRADIENT) | (max_abs_grad <= tolerances) | (n_iters == iteration + 1)
            if over.any():
                for index in np.flatnonzero(running & over):
                    ended = flat[starts[index] : ends[index]].copy()
                    lanes[index].parameters = ended.reshape(begun[index].shape)
                    last_max_abs_grad[index] = max_abs_grad[index]
                running &= ~over
                if not running.any():
                    break
    for lane, start, entry in zip(lanes, begun, last_max_abs_grad.tolist(), strict=True):
        if not entry < _MAX_GRADIENT:
            lane.failure = "training diverges"
        elif lane.tol is not None and entry > lane.tol:
            _warn_not_converged(lane, start, entry)


def _warn_not_converged(lane: Lane, start: Floats, max_abs_grad: float) -> None:
    # Only the rate of L-BFGS depends on the gradient, so any array is a valid argument here.
    rate = default_rate(lane.spec, lane.objective, start, lane.n_iter)
    lr = lane.spec.options["lr"] if rate is None else rate(lane.n_iter - 1)
    # Losses may overflow.
    with np.errstate(all="ignore"):
        losses = [lane.objective(parameters, np.empty_like(start))[1] for parameters in (start, lane.parameters)]
    warn_not_converged(lane.spec, f"{lr:.3g}", lane.n_iter, cast(float, lane.tol), max_abs_grad, *losses)


def _parts(start: int, end: int) -> list[slice]:
    """Return slices that are small enough for torch to use one thread."""
    return [slice(first, min(first + _MAX_THREAD_ELEMENTS, end)) for first in range(start, end, _MAX_THREAD_ELEMENTS)]


class _Gradients:
    """Gradients from Gram matrices, with one product for consecutive lanes of the same matrix.

    Parameters
    ----------
    lanes : list of Lane
        In the order of their parameters in the array.
    """

    def __init__(self, lanes: list[Lane]) -> None:
        self._blocks = []
        end = 0
        for matrix, group in groupby(lanes, key=_matrix):
            objectives = [lane.objective for lane in group]
            rhs = np.concatenate([objective.rhs.ravel() for objective in objectives])
            rows = slice(end, end + len(rhs))
            end += len(rhs)
            shape = (len(objectives), *objectives[0].rhs.shape) if matrix else (-1,)
            penalties = None
            if matrix:
                alphas = np.array([objective.alpha for objective in objectives])
                penalties = alphas[:, None, None] * objectives[0].norm_weights[:, None]
            self._blocks.append((rows, shape, cast(Floats, objectives[0].gram), penalties, rhs.reshape(shape)))

    def __call__(self, flat: Floats, gradient: Floats) -> None:
        """Write ``2 (G theta + alpha P theta - T' b)`` of each lane."""
        for rows, shape, gram, penalties, rhs in self._blocks:
            parameters, slopes = flat[rows].reshape(shape), gradient[rows].reshape(shape)
            if gram is None:
                np.subtract(parameters, rhs, out=slopes)
            else:
                np.matmul(gram, parameters, out=slopes)
                slopes += penalties * parameters
                slopes -= rhs
        gradient *= 2.0
