"""Many small trainings as one: their parameters are parts of one tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from torchpoly._basis import Floats
from torchpoly._objective import GramObjective
from torchpoly._optimizers import OptimizerSpec
from torchpoly._training import build, default_rate, warn_not_converged

# These step each entry of the parameters by what they know of that entry alone.
_ELEMENTWISE = {
    torch.optim.SGD,
    torch.optim.ASGD,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
}

# torch updates larger tensors on several threads, which would have to be woken for each.
_MAX_ELEMENTS = 2**15

# Gradients beyond this may belong to values that are infinite.
_DIVERGED = 1e150


@dataclass
class Lane:
    """One of the trainings.

    Parameters
    ----------
    objective : GramObjective
    parameters : ndarray of shape (n_parameters, n_targets)
        Where it starts, and after training where it ended.
    spec : OptimizerSpec
    n_iter : int
    tol : float or None

    Attributes
    ----------
    has_diverged : bool
        Whether its gradient has left the range in which its value is finite for certain.
    """

    objective: GramObjective
    parameters: Floats
    spec: OptimizerSpec
    n_iter: int
    tol: float | None
    has_diverged: bool = False

    @property
    def _optimizer(self) -> tuple[Hashable, ...]:
        """What lanes have in common that one optimizer serves."""
        options = sorted((name, _hashable(value)) for name, value in self.spec.options.items() if name != "lr")
        return self.spec.factory, *options

    @property
    def _rate(self) -> tuple[Hashable, ...]:
        """What lanes have in common whose learning rates are always the same."""
        lr = _hashable(self.spec.options["lr"])
        return (lr, self.n_iter, self.objective.curvature) if self.spec.lr_is_default else (lr,)

    @property
    def _matrix(self) -> int:
        """Which Gram matrix it trains on; 0 for none."""
        return 0 if self.objective.gram is None else id(self.objective.gram)


def _hashable(value: object) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)


def trains_in_lockstep(spec: OptimizerSpec) -> bool:
    """Whether an optimizer does to each entry what it would do to it alone."""
    return spec.factory in _ELEMENTWISE


def train_in_lockstep(lanes: Iterable[Lane]) -> None:
    """Train each lane as :func:`minimise` would alone, until it meets its own tolerance.

    Warns
    -----
    ConvergenceWarning
        For each lane whose `n_iter` ends before `tol` is met.
    """
    together = defaultdict(list)
    for lane in lanes:
        together[lane._optimizer].append(lane)
    for group in together.values():
        _train(group)


def _train(lanes: list[Lane]) -> None:
    by_rate = defaultdict(list)
    for lane in lanes:
        by_rate[lane._rate].append(lane)
    lanes = [lane for group in by_rate.values() for lane in sorted(group, key=lambda lane: lane._matrix)]
    sizes = np.array([lane.parameters.size for lane in lanes])
    ends = np.cumsum(sizes)
    starts = ends - sizes
    flat = np.concatenate([lane.parameters.ravel() for lane in lanes])
    gradient = np.empty_like(flat)
    half_gradient = _half_gradient(lanes, starts)
    tolerances = np.array([-1.0 if lane.tol is None else lane.tol for lane in lanes])
    n_iters = np.array([lane.n_iter for lane in lanes])
    running = np.ones(len(lanes), dtype=bool)
    ended = [(lane.parameters, 0.0) for lane in lanes]
    # Overflow on the way to divergence is told to whoever asks.
    with np.errstate(all="ignore"):
        half_gradient(flat, gradient)
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
            gradient *= 2.0
            for tensor, slope in tensors:
                tensor.grad = slope
            optimizer.step()
            half_gradient(flat, gradient)
            entries = 2.0 * np.maximum.reduceat(np.abs(gradient), starts)
            over = ~(entries < _DIVERGED) | (entries <= tolerances) | (n_iters == iteration + 1)
            if over.any():
                for index in np.flatnonzero(running & over):
                    ended[index] = flat[starts[index] : ends[index]].copy(), float(entries[index])
                running &= ~over
                if not running.any():
                    break
    for lane, (parameters, steepest) in zip(lanes, ended, strict=True):
        start, lane.parameters = lane.parameters, parameters.reshape(lane.parameters.shape)
        lane.has_diverged = not steepest < _DIVERGED
        if lane.tol is not None and lane.tol < steepest < _DIVERGED:
            losses = [lane.objective(at, np.empty_like(at))[1] for at in (start, lane.parameters)]
            rate = default_rate(lane.spec, lane.objective, gradient, lane.n_iter)
            lr = lane.spec.options["lr"] if rate is None else rate(lane.n_iter - 1)
            warn_not_converged(lane.spec, f"{lr:.3g}", lane.n_iter, lane.tol, steepest, *losses)


def _parts(start: int, end: int) -> list[slice]:
    """Return slices that torch works on with one thread."""
    return [slice(first, min(first + _MAX_ELEMENTS, end)) for first in range(start, end, _MAX_ELEMENTS)]


def _half_gradient(lanes: list[Lane], starts: NDArray[np.intp]) -> Callable[[Floats, Floats], None]:
    """Return what writes half the gradients, for all lanes of a Gram matrix in one product."""
    blocks = []
    for matrix, group in groupby(zip(lanes, starts, strict=True), key=lambda pair: pair[0]._matrix):
        chosen = list(group)
        objectives = [lane.objective for lane, _ in chosen]
        linear = [objective.linear.ravel() for objective in objectives]
        rows = slice(chosen[0][1], chosen[0][1] + sum(map(len, linear)))
        shape = (len(chosen), *objectives[0].linear.shape) if matrix else (-1,)
        alphas = np.array([objective.alpha for objective in objectives])[:, None, None]
        blocks.append((rows, shape, objectives[0].gram, alphas, np.concatenate(linear).reshape(shape)))

    def half_gradient(flat: Floats, gradient: Floats) -> None:
        for rows, shape, gram, alphas, linear in blocks:
            parameters, slopes = flat[rows].reshape(shape), gradient[rows].reshape(shape)
            if gram is None:
                np.subtract(parameters, linear, out=slopes)
            else:
                np.matmul(cast(Floats, gram), parameters, out=slopes)
                slopes[:, 1:] += alphas * parameters[:, 1:]
                slopes -= linear

    return half_gradient
