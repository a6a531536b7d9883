"""The ``torch.optim`` loop: which optimizer, when to stop, what to report."""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.optim import Optimizer

from torchpoly._basis import Floats

OptimizerLike = str | type[Optimizer] | partial

# Defaults, measured to reach the optimum in orthonormal coordinates, where they mean the same for
# every data set. What is not named here is torch's own. Weight decay is off: `alpha` is the
# penalty, and it is on the coefficients rather than on the parameters of training.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "adadelta": {"lr": 3.0},
    "adafactor": {"lr": 0.2},
    "adagrad": {"lr": 1.0},
    "adam": {"lr": 0.1},
    "adamax": {"lr": 0.1},
    "adamw": {"lr": 0.1, "weight_decay": 0.0},
    "asgd": {"lr": 0.5, "lambd": 0.0},
    "lbfgs": {
        "lr": 1.0,
        "max_iter": 1,
        "max_eval": 25,
        "history_size": 10,
        "line_search_fn": "strong_wolfe",
        "tolerance_grad": 0.0,
        "tolerance_change": 1e-32,
    },
    "muon": {"lr": 0.03, "weight_decay": 0.0},
    "nadam": {"lr": 0.1},
    "radam": {"lr": 0.1},
    "rmsprop": {"lr": 0.1},
    "rprop": {"lr": 0.1, "step_sizes": (1e-12, 50.0)},
    "sgd": {"lr": 0.5},
}

# torch's L-BFGS learns no curvature from steps along which the gradient changes by less than
# 1e-10 in all. Values and gradients of unit variance reach that long before they are exact, so it
# sees them in smaller units; nothing else in it depends on units.
_LBFGS_SCALE = 2.0**40


# Differences of values below this have lost more digits to rounding than a line search can spare.
_ROUNDING = 1e-12

# Relative progress of the value, between coordinates that follow its curvature, that is none.
_STALL = 1e-13

# After so many iterations coordinates are made anew, or where they cannot be, the next stage begins.
_STAGE_ITERATIONS = 10


class Objective(Protocol):
    """What :func:`minimise` needs to know of an objective."""

    def __call__(self, parameters: Floats, gradient: Floats) -> tuple[float, float]:
        """Return the value and the loss to report; write the value's gradient."""

    @property
    def curvature(self) -> float:
        """The largest eigenvalue of half the second derivative."""

    @property
    def isotropic(self) -> bool:
        """Whether all these eigenvalues are the same."""

    @property
    def is_final(self) -> bool:
        """Whether this is the last of the stages in which it is minimised."""

    @property
    def follows_curvature(self) -> bool:
        """Whether coordinates are made for the curvature where they start."""

    @property
    def stage_tol(self) -> float:
        """The gradient entry at which a stage that is not the last is over."""

    def restart(self, parameters: Floats, *, narrower: bool) -> None:
        """Go on from these parameters, which change in place, in new coordinates and maybe the next stage."""


class Watch(Protocol):
    """What sees training from iteration to iteration."""

    def begin(self) -> None:
        """Learn that an iteration begins."""

    def end(self, losses: Sequence[float]) -> bool:
        """Learn that an iteration has ended, with the losses so far; return whether training is to stop."""


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer before it has seen parameters.

    Parameters
    ----------
    factory : subclass of torch.optim.Optimizer
    options : dict
        Keyword arguments: the defaults above, those of the user's partial, and `lr`.
    lr_is_default : bool
        Whether `lr` is one of the defaults above, which then follows a schedule.
    """

    factory: Any
    options: dict[str, Any]
    lr_is_default: bool

    @property
    def is_lbfgs(self) -> bool:
        """Whether it is torch's L-BFGS, which searches along lines."""
        return issubclass(self.factory, torch.optim.LBFGS)

    @property
    def sets_first_step(self) -> bool:
        """Whether the first step of L-BFGS is ours to scale: no rate is given, nor several iterations a step."""
        return self.is_lbfgs and self.lr_is_default and self.options["max_iter"] == 1


@cache
def optimizer_names() -> dict[str, type[Optimizer]]:
    """Return the optimizers of ``torch.optim`` that take dense tensors, by lower-case name."""
    return {
        name.lower(): member
        for name, member in vars(torch.optim).items()
        if inspect.isclass(member)
        and issubclass(member, Optimizer)
        and member not in (Optimizer, torch.optim.SparseAdam)
    }


def resolve_optimizer(optimizer: OptimizerLike, lr: float | None) -> OptimizerSpec:
    """Return the optimizer's class and options.

    Raises
    ------
    ValueError
        If the name is not known, the class is no optimizer of dense tensors, or its learning
        rate has no default.
    """
    factory, options = _class_and_options(optimizer)
    defaults = _DEFAULTS.get(factory.__name__.lower(), {}) if factory in optimizer_names().values() else {}
    lr_is_default = lr is None and "lr" in defaults and "lr" not in options
    options = defaults | options | ({} if lr is None else {"lr": float(lr)})
    # Fusing the updates of many tensors is overhead for the one that there is.
    if _default(factory, "foreach") is None:
        options.setdefault("foreach", False)
    if "lr" not in options and _default(factory, "lr") is inspect.Parameter.empty:
        raise ValueError(f"The 'lr' parameter got None, but {factory.__name__} has no default for it: set a float.")
    return OptimizerSpec(factory, options, lr_is_default)


def _class_and_options(optimizer: OptimizerLike) -> tuple[Any, dict[str, Any]]:
    """Return the class that the user means and the keywords of the user's partial."""
    factory: Any = optimizer
    options: dict[str, Any] = {}
    if isinstance(factory, partial):
        if factory.args:
            raise ValueError(
                f"The 'optimizer' parameter got {optimizer!r}: a functools.partial may only set keyword "
                "arguments, since the first positional one is the parameters to train."
            )
        factory, options = factory.func, factory.keywords
    known = optimizer_names()
    if isinstance(factory, str):
        name = factory.lower()
        if name in known:
            return known[name], options
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"The 'optimizer' parameter got {factory!r}, which is not a torch.optim optimizer of dense tensors. "
            f"Did you mean {nearest!r}? Allowed are {', '.join(sorted(known))}, in any case, an optimizer class, "
            "or a functools.partial of one."
        )
    if not (inspect.isclass(factory) and issubclass(factory, Optimizer) and factory is not Optimizer):
        raise ValueError(
            f"The 'optimizer' parameter got {optimizer!r}; it must be the name of a torch.optim optimizer, a "
            "subclass of torch.optim.Optimizer, or a functools.partial of one."
        )
    if issubclass(factory, torch.optim.SparseAdam):
        raise ValueError(
            f"The 'optimizer' parameter got {optimizer!r}, which takes sparse gradients only; 'adam' is its "
            "counterpart for dense ones."
        )
    return factory, options


class _Trainee:
    """Parameters and gradient, in memory that objective and optimizer share."""

    def __init__(self, parameters: Floats, spec: OptimizerSpec) -> None:
        self.parameters = parameters
        self.gradient = np.zeros_like(parameters)
        self.tensor = torch.from_numpy(parameters).requires_grad_()
        self._scale = _LBFGS_SCALE if spec.is_lbfgs else 1.0
        self._scaled = np.zeros_like(parameters)
        self._tensor_gradient = torch.from_numpy(self._scaled)
        self._latest: tuple[Objective, bytes, tuple[float, float]] | None = None

    def evaluate(self, objective: Objective) -> tuple[float, float]:
        """Return value and loss and set the gradients, from memory where neither side has moved."""
        position = self.parameters.tobytes()
        if self._latest is None or self._latest[0] is not objective or self._latest[1] != position:
            self._latest = objective, position, objective(self.parameters, self.gradient)
        # The optimizer has a gradient of its own: some overwrite it, or drop it once it is used.
        np.multiply(self.gradient, self._scale, out=self._scaled)
        self.tensor.grad = self._tensor_gradient
        return self._latest[2]

    def closure(self, objective: Objective) -> Callable[[], Tensor]:
        """Return what L-BFGS, and whatever else evaluates the objective by itself, demands.

        Its values are differences to the present one, for a line search compares values that agree
        in most of their digits. Where rounding would be more than 1e-4 of the difference, it comes
        from the gradients at both ends, by the trapezoidal rule.
        """
        (base, _), origin, slope = self.evaluate(objective), self.parameters.copy(), self.gradient.copy()

        def closure() -> Tensor:
            value, _ = self.evaluate(objective)
            difference, step = value - base, self.parameters - origin
            if not (math.isfinite(difference) and np.isfinite(self.gradient).all()):
                # Where the loss overflows, the line search sees a bowl that it turns back from.
                difference = 1.0 + abs(base)
                self._scaled[:] = step * (2.0 * difference * self._scale / float(np.vdot(step, step)))
            elif abs(difference) < _ROUNDING * max(1.0, abs(base)):
                difference = 0.5 * float(np.vdot(step, self.gradient + slope))
            return torch.tensor(difference * self._scale, dtype=torch.float64, device="cpu")

        return closure

    def restart(self, objective: Objective, *, narrower: bool) -> None:
        """Take the objective to its next stage, or to new coordinates in this one."""
        objective.restart(self.parameters, narrower=narrower)
        self._latest = None
        self.evaluate(objective)


def minimise(
    objective: Objective,
    parameters: Floats,
    spec: OptimizerSpec,
    *,
    n_iter: int,
    tol: float | None,
    batches: Callable[[], Iterable[tuple[float, Objective]]] | None = None,
    watch: Watch | None = None,
    verbose: int = 0,
) -> Floats:
    """Train `parameters` in place.

    Parameters
    ----------
    objective : Objective
    parameters : ndarray
        Where training starts, on return where it ended.
    spec : OptimizerSpec
        As :func:`resolve_optimizer` returns it.
    n_iter : int
        Greatest number of iterations.
    tol : float or None
        Stop where no gradient entry exceeds it; None runs all iterations.
    batches : callable, optional
        Returns for each iteration the objectives of its steps, each with the share of the
        iteration that is done before it. Without it, an iteration is a step on `objective`.
    watch : Watch, optional
        What sees each iteration, and may stop training.
    verbose : int
        Print every so many iterations; 0 prints nothing.

    Returns
    -------
    ndarray of shape (n_iterations,)
        The loss after each iteration.

    Raises
    ------
    ValueError
        If the loss stops being finite, or the optimizer refuses its options.

    Warns
    -----
    ConvergenceWarning
        If `n_iter` ends before `tol` is met.
    """
    trainee = _Trainee(parameters, spec)
    must_have_closure = _default(spec.factory.step, "closure") is inspect.Parameter.empty
    losses: list[float] = []
    # Overflow on the way to divergence is reported below, as an error.
    with np.errstate(all="ignore"):
        _, start = trainee.evaluate(objective)
        optimizer = _build(spec, trainee.tensor, objective)
        rate = _default_rate(spec, objective, trainee.gradient, n_iter)
        stage_start, restart_value = 0, math.inf
        for iteration in range(n_iter):
            if watch is not None:
                watch.begin()
            for done, part in [(0.0, objective)] if batches is None else batches():
                if rate is not None:
                    optimizer.param_groups[0]["lr"] = rate(iteration - stage_start + done)
                trainee.evaluate(part)
                _ = optimizer.step(cast(Any, trainee.closure(part))) if must_have_closure else optimizer.step()
            value, loss = trainee.evaluate(objective)
            if not math.isfinite(value):
                raise ValueError(_diverged(spec, optimizer, iteration + 1))
            losses.append(loss)
            if verbose and (iteration + 1) % verbose == 0:
                print(f"[TorchPolynomialRegressor] iteration {iteration + 1}: loss = {loss:.6g}")
            if watch is not None and watch.end(losses):
                break
            steepest = max(trainee.gradient.max(), -trainee.gradient.min())
            if objective.is_final and tol is not None and steepest <= tol:
                break
            # Where coordinates cannot follow the curvature, there is no use in waiting longer.
            long = iteration + 1 - stage_start == _STAGE_ITERATIONS
            is_over = steepest <= objective.stage_tol or (long and not objective.follows_curvature)
            stalls = long and objective.follows_curvature and restart_value - value <= _STALL * abs(value)
            if stalls and objective.is_final:
                break  # working precision allows no more
            narrower = (is_over or stalls) and not objective.is_final
            if narrower or (long and objective.follows_curvature):
                trainee.restart(objective, narrower=narrower)
                optimizer = _build(spec, trainee.tensor, objective)
                rate = _default_rate(spec, objective, trainee.gradient, n_iter)
                stage_start, restart_value = iteration + 1, trainee.evaluate(objective)[0]
        else:
            if tol is not None:
                _warn_not_converged(spec, optimizer, n_iter, tol, steepest, start, losses[-1])
    return np.array(losses)


def _default_rate(
    spec: OptimizerSpec, objective: Objective, gradient: Floats, n_iter: int
) -> Callable[[float], float] | None:
    """Return the learning rate after so many iterations where the user has named none, else None.

    It falls as (1 - i / n_iter)**4, so that optimizers which would circle the optimum settle.
    Gradient descent steps in proportion to the gradient, so its rate is in units of the inverse
    curvature. L-BFGS needs no falling rate; knowing no curvature at first, it divides the first
    step by the gradient's 1-norm. Undoing that, in units of the inverse curvature, makes the
    first step the only one where the curvature is the same in all directions.
    """
    if not spec.lr_is_default:
        return None
    lr = spec.options["lr"]
    if spec.sets_first_step:
        first = max(1.0, _LBFGS_SCALE * np.abs(gradient).sum()) / (2 * _LBFGS_SCALE * objective.curvature)
        return lambda iteration: lr if iteration else lr * first
    if spec.is_lbfgs:
        return lambda iteration: lr
    if spec.factory in (torch.optim.SGD, torch.optim.ASGD):
        lr /= objective.curvature
    return lambda iteration: lr * (1 - iteration / n_iter) ** 4


def _build(spec: OptimizerSpec, parameters: Tensor, objective: Objective) -> Optimizer:
    options = spec.options
    if spec.sets_first_step and objective.isotropic:
        # The first step, of the default rate, ends at the optimum: there is no line to search.
        options = options | {"line_search_fn": None}
    try:
        return spec.factory([parameters], **options)
    except Exception as error:
        raise ValueError(
            f"The 'optimizer' parameter got {spec.factory.__name__}, which refuses its options {options}: {error}"
        ) from error


@cache
def _default(function: Any, name: str) -> Any:
    """Return the default of a parameter: ``inspect.Parameter.empty`` if it must be given, ... if there is no such."""
    parameter = inspect.signature(function).parameters.get(name)
    return ... if parameter is None else parameter.default


def _rates(optimizer: Optimizer) -> str:
    return ", ".join(f"{group['lr']:.3g}" for group in optimizer.param_groups if "lr" in group)


def _diverged(spec: OptimizerSpec, optimizer: Optimizer, iteration: int) -> str:
    return (
        f"Training diverged: the loss is not finite after iteration {iteration} of {spec.factory.__name__} with "
        f"lr={_rates(optimizer)}. Use a smaller 'lr'"
        + (", or basis='orthonormal'." if spec.lr_is_default else ", or lr=None for a default that converges.")
    )


def _warn_not_converged(
    spec: OptimizerSpec, optimizer: Optimizer, n_iter: int, tol: float, steepest: float, start: float, end: float
) -> None:
    if end > start + 0.01 * abs(start):
        cause = f"The loss grew from {start:.3g} to {end:.3g}: use an 'lr' smaller than {_rates(optimizer)}."
    else:
        cause = (
            "Increase 'n_iter' or 'tol', choose another 'lr', or optimizer='adam' where the loss has kinks, or set "
            "tol=None to run all iterations without this."
        )
    warnings.warn(
        f"{spec.factory.__name__} ended after n_iter={n_iter} iterations with a gradient entry of {steepest:.3g}, "
        f"above tol={tol:.3g}. {cause}",
        ConvergenceWarning,
        stacklevel=6,  # the line that called fit
    )
