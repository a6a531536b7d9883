"""The training loop around ``torch.optim``: learning rates, stopping criteria, warnings."""

from __future__ import annotations

import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from torchpoly._backend.rows import Floats
from torchpoly._train.optimizers import OptimizerSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

# torch's L-BFGS ignores curvature where the gradient changes by less than 1e-10 (`ys > 1e-10` in its source). Values
# and gradients for targets of variance 1 would reach that long before convergence, so they are multiplied by this.
# Nothing else in L-BFGS depends on their units.
_LBFGS_SCALE = 2.0**40

# A smaller difference of values has too few correct digits for a line search.
_MIN_VALUE_DIFFERENCE = 1e-12

# Training stalls if the value decreases by less than this fraction between two preconditionings.
_MIN_PROGRESS = 1e-13
# A stall is convergence up to rounding only if no gradient entry exceeds this, even with gross outliers.
_MAX_STALLED_GRADIENT = 1e-2

# After this number of iterations coordinates are preconditioned again. If they cannot be, the next stage begins.
_STAGE_ITERATIONS = 10


class Objective(ABC):
    """A function of the parameters. The defaults are those of a function that is minimized in one stage."""

    @abstractmethod
    def __call__(self, parameters: Floats, gradient: Floats) -> tuple[float, float]:
        """Return the value and the loss to report; write the gradient of the value."""

    @property
    @abstractmethod
    def curvature(self) -> float:
        """The largest eigenvalue of half the Hessian."""

    @property
    def is_isotropic(self) -> bool:
        """Whether the Hessian is a multiple of the identity."""
        return False

    @property
    def is_preconditioned(self) -> bool:
        """Whether the parameters are coordinates in which the Hessian at their origin is about isotropic."""
        return False

    @property
    def max_first_step(self) -> float:
        """The greatest length of the first step, which knows the curvature at the start only."""
        return math.inf

    @property
    def is_last_stage(self) -> bool:
        """Whether this is the last of the stages in which the function is minimized."""
        return True

    @property
    def stage_tol(self) -> float:
        """A stage before the last one ends where no gradient entry exceeds this."""
        return 0.0

    def reset(self, parameters: Floats, *, advance: bool) -> None:  # noqa: B027
        """Make new coordinates whose origin is at these parameters, which become 0; maybe advance to the next stage."""


class Program(Protocol):
    """An objective that is a linear program."""

    dual_gap: Floats | None

    @property
    def is_near(self) -> bool:
        """Whether the parameters are so close to the optimum that the simplex method needs few steps."""

    def measure(self, parameters: Floats) -> None:
        """Set `dual_gap`: an upper bound of the difference between the loss of each target and its minimum."""

    def finish(self, parameters: Floats) -> tuple[float, bool]:
        """Solve the linear program and set `dual_gap`; return the loss and whether it is proved to be the minimum."""


class IterationCallback(Protocol):
    """Methods that are called in each iteration of training."""

    def on_iteration_begin(self) -> None:
        """Is called before each iteration."""

    def on_iteration_end(self, losses: Sequence[float]) -> bool:
        """Is called after each iteration with all losses so far; returns whether to stop training."""


class _TrainingState:
    """Parameters and gradient, as NumPy arrays for the objective and as tensors for the optimizer."""

    def __init__(self, parameters: Floats, spec: OptimizerSpec) -> None:
        import torch

        self.parameters = parameters
        self.gradient = np.zeros_like(parameters)
        self.tensor = torch.from_numpy(parameters).requires_grad_()
        self._scale = _LBFGS_SCALE if spec.is_lbfgs else 1.0
        self._scaled = np.zeros_like(parameters)
        self._tensor_gradient = torch.from_numpy(self._scaled)
        self._latest: tuple[Objective, bytes, tuple[float, float]] | None = None
        self.is_evaluating = False  # remains True if the objective raises

    def evaluate(self, objective: Objective) -> tuple[float, float]:
        """Return the value and the loss, and set the gradients; the latest evaluation is cached."""
        self.is_evaluating = True
        position = self.parameters.tobytes()
        if self._latest is None or self._latest[0] is not objective or self._latest[1] != position:
            self._latest = objective, position, objective(self.parameters, self.gradient)
        # The optimizer gets a copy of the gradient, since some optimizers overwrite or delete it.
        np.multiply(self.gradient, self._scale, out=self._scaled)
        self.tensor.grad = self._tensor_gradient
        self.is_evaluating = False
        return self._latest[2]

    def closure(self, objective: Objective) -> Callable[[], Tensor]:
        """Return the closure for L-BFGS, and for other optimizers that evaluate the objective.

        It returns differences from the present value, since a line search compares values that agree in
        most digits. If rounding is more than 1e-4 of the difference, the difference is computed by the
        trapezoidal rule from the gradients at both ends.
        """
        import torch

        (base, _), origin, slope = self.evaluate(objective), self.parameters.copy(), self.gradient.copy()

        def closure() -> Tensor:
            value, _ = self.evaluate(objective)
            difference, step = value - base, self.parameters - origin
            if not (math.isfinite(difference) and np.isfinite(self.gradient).all()):
                # Where the loss overflows, a large quadratic function makes the line search go back.
                difference = 1.0 + abs(base)
                self._scaled[:] = step * (2.0 * difference * self._scale / float(np.vdot(step, step)))
            elif abs(difference) < _MIN_VALUE_DIFFERENCE * max(1.0, abs(base)):
                difference = 0.5 * float(np.vdot(step, self.gradient + slope))
            return torch.tensor(difference * self._scale, dtype=torch.float64, device="cpu")

        return closure

    def reset(self, objective: Objective, *, advance: bool) -> float:
        """Precondition the objective again, and maybe advance it to the next stage; return its value."""
        objective.reset(self.parameters, advance=advance)
        self._latest = None
        value, _ = self.evaluate(objective)
        return value


def minimize(
    objective: Objective,
    parameters: Floats,
    spec: OptimizerSpec,
    *,
    n_iter: int,
    tol: float | None,
    batches: Callable[[], Iterable[tuple[float, Objective]]] | None = None,
    program: Program | None = None,
    callback: IterationCallback | None = None,
    verbose: int = 0,
) -> Floats:
    """Minimize the objective; change `parameters` in place.

    Parameters
    ----------
    objective : Objective
    parameters : ndarray
        The initial parameters, and on return the final parameters.
    spec : OptimizerSpec
        As :func:`resolve_optimizer` returns it.
    n_iter : int
        Greatest number of iterations.
    tol : float or None
        Training stops when no gradient entry exceeds it; None runs all iterations.
    batches : callable, optional
        Returns for each iteration the objectives of its steps, each with the fraction of the
        iteration that is done before. Without it, an iteration is one step on `objective`.
    program : Program, optional
        The objective as a linear program. L-BFGS in the last stage ends with its exact optimum.
    callback : IterationCallback, optional
    verbose : int
        Print a line after each multiple of this number of iterations; 0 prints nothing.

    Returns
    -------
    ndarray of shape (n_iterations,)
        The loss after each iteration.

    Raises
    ------
    ValueError
        If the loss is not finite, or the optimizer raises because of its options.

    Warns
    -----
    ConvergenceWarning
        If `tol` is not met in `n_iter` iterations.
    """
    state = _TrainingState(parameters, spec)
    must_have_closure = spec.demands_closure
    losses: list[float] = []
    # Divergence is reported below as an error, so overflow warnings are not needed.
    with np.errstate(all="ignore"):
        value, start = state.evaluate(objective)
        if not (math.isfinite(value) and np.isfinite(state.gradient).all()):
            raise ValueError(
                "Training cannot start, as the loss or its gradient is not finite there: y, or predictions in a call "
                "with warm_start=True, are beyond what floats hold. Divide y by a number, or fit with warm_start=False."
            )
        optimizer = build(spec, [state.tensor], objective)
        rate = default_rate(spec, objective, state.gradient, n_iter)
        stage_start, restart_value = 0, math.inf
        is_stopped = has_converged = False
        for iteration in range(n_iter):
            if callback is not None:
                callback.on_iteration_begin()
            for done, part in [(0.0, objective)] if batches is None else batches():
                state.evaluate(part)
                try:
                    if rate is not None:
                        optimizer.param_groups[0]["lr"] = rate(iteration - stage_start + done)
                    _ = optimizer.step(cast(Any, state.closure(part))) if must_have_closure else optimizer.step()
                except ZeroDivisionError as error:
                    raise ValueError(
                        f"The steps of {spec.factory.__name__} with lr={_rates(optimizer)} vanish. Use a larger 'lr', "
                        "or None for the default."
                    ) from error
                except (ArithmeticError, AssertionError, AttributeError, NameError, RuntimeError) as error:
                    if state.is_evaluating:
                        raise
                    raise ValueError(
                        f"The 'optimizer' parameter got {spec.factory.__name__}, which failed in its step: {error!r}. "
                        "Use other options of it, or another optimizer, such as 'lbfgs'."
                    ) from error
            value, loss = state.evaluate(objective)
            if not math.isfinite(value):
                other = "optimizer='lbfgs'" if spec.lr_is_default else "lr=None for a default that converges"
                raise ValueError(
                    f"Training diverged: the loss is not finite after iteration {iteration + 1} of "
                    f"{spec.factory.__name__} with lr={_rates(optimizer)}. Use a smaller 'lr', or {other}."
                )
            max_abs_grad = max(state.gradient.max(), -state.gradient.min())
            # Without preconditioning, more iterations in a stage hardly help.
            long = iteration + 1 - stage_start == _STAGE_ITERATIONS
            is_over = max_abs_grad <= objective.stage_tol or (long and not objective.is_preconditioned)
            # Rounding may prevent further progress, or the line search finds no lower value.
            stalls = long and objective.is_preconditioned and restart_value - value <= _MIN_PROGRESS * abs(value)
            may_end = objective.is_last_stage and tol is not None
            has_converged = may_end and (max_abs_grad <= tol or (stalls and max_abs_grad <= _MAX_STALLED_GRADIENT))
            is_last = has_converged or (may_end and stalls) or iteration + 1 == n_iter
            if program is not None and spec.is_lbfgs and program.is_near and is_last:
                loss, has_converged = program.finish(parameters)
            losses.append(loss)
            if verbose and (iteration + 1) % verbose == 0:
                print(f"[TorchPolynomialRegressor] iteration {iteration + 1}: loss = {loss:.6g}")
            is_stopped = callback is not None and callback.on_iteration_end(losses)
            if is_stopped or is_last:
                break
            advance = (is_over or stalls) and not objective.is_last_stage
            if advance or (long and objective.is_preconditioned):
                restart_value = state.reset(objective, advance=advance)
                optimizer = build(spec, [state.tensor], objective)
                rate = default_rate(spec, objective, state.gradient, n_iter)
                stage_start = iteration + 1
        if program is not None and program.dual_gap is None:
            program.measure(parameters)
        if not (has_converged or is_stopped or tol is None):
            gap = None if program is None else float(cast(Floats, program.dual_gap).max())
            warn_not_converged(spec, _rates(optimizer), len(losses), tol, max_abs_grad, start, losses[-1], gap)
    return np.array(losses)


def default_rate(
    spec: OptimizerSpec, objective: Objective, gradient: Floats, n_iter: int
) -> Callable[[float], float] | None:
    """Return the default learning rate as a function of the iteration; None if the user has set a rate.

    The rate is proportional to ``(1 - i / n_iter)**4``, so that optimizers which would oscillate around the
    optimum converge. The steps of gradient descent are proportional to the gradient, so its rate is divided
    by the curvature. L-BFGS has a constant rate after the first step. torch divides the first step of L-BFGS
    by the 1-norm of the gradient. Here that is undone, and the step is divided by the curvature. If the Hessian
    is a multiple of the identity, the first step then ends at the optimum.
    """
    if not spec.lr_is_default:
        return None
    lr = spec.options["lr"]
    if spec.sets_first_step:
        length = 1 / (2 * objective.curvature)
        # The curvature may change within a long step, so a limit applies. The line search can extend the step.
        length = min(length, objective.max_first_step / max(float(np.linalg.norm(gradient)), 1e-300))
        first = max(1.0, _LBFGS_SCALE * np.abs(gradient).sum()) * length / _LBFGS_SCALE
        return lambda iteration: lr if iteration else lr * first
    if spec.is_lbfgs:
        return lambda iteration: lr
    if spec.scales_with_curvature:
        lr /= objective.curvature
    return lambda iteration: lr * (1 - iteration / n_iter) ** 4


def build(spec: OptimizerSpec, parameters: list[Any], objective: Objective) -> Optimizer:
    """Return the optimizer object for tensors, or for parameter groups of torch.

    Raises
    ------
    ValueError
        If the constructor raises because of the options.
    """
    options = spec.options
    if spec.sets_first_step and objective.is_isotropic:
        # The first step of the default rate ends at the optimum, so a line search is not needed.
        options = options | {"line_search_fn": None}
    try:
        return _without_compiler(spec.factory)(parameters, **options)
    except Exception as error:
        raise ValueError(
            f"The 'optimizer' parameter got {spec.factory.__name__}, which refuses its options {options}: {error}"
        ) from error


@cache
def _without_compiler(factory: Any) -> Any:
    """Return a subclass of L-BFGS whose constructor does not import torch's compiler; other classes unchanged.

    The import takes a second. ``torch._disable_dynamo``, a decorator of :meth:`torch.optim.Optimizer.add_param_group`,
    causes it. Other optimizers import the compiler in their steps, too.
    """
    import torch

    if factory is not torch.optim.LBFGS:
        return factory
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    return type("LBFGS", (torch.optim.LBFGS,), {"add_param_group": add_param_group})


def _rates(optimizer: Optimizer) -> str:
    return ", ".join(f"{group['lr']:.3g}" for group in optimizer.param_groups if "lr" in group)


def warn_not_converged(
    spec: OptimizerSpec,
    rates: str,
    n_iter: int,
    tol: float,
    max_abs_grad: float,
    start: float,
    end: float,
    dual_gap: float | None = None,
) -> None:
    """Warn that training has ended before the tolerance was met.

    `start` and `end` are the losses before and after training.
    """
    if end > start + 0.01 * abs(start):
        cause = f"The loss grew from {start:.3g} to {end:.3g}: " + (
            "increase 'n_iter'." if spec.lr_is_default else f"use an 'lr' smaller than {rates}."
        )
    else:
        cause = (
            ("Increase 'n_iter' or 'tol'" if spec.lr_is_default else "Increase 'n_iter' or 'tol', choose another 'lr'")
            + ", or set tol=None to run all iterations without this. Mini-batches, and losses with kinks, seldom meet "
            "a tol, however close to the optimum they are; optimizer='lbfgs' does for the named losses, and for a "
            "function with kinks 'adam' comes closer."
        )
    if dual_gap is not None:
        cause = f"The loss is at most {dual_gap:.3g} above the least possible (dual_gap_). {cause}"
    warnings.warn(
        f"{spec.factory.__name__} ended after {n_iter} iterations with a gradient entry of {max_abs_grad:.3g}"
        f"{f', above tol={tol:.3g}' if max_abs_grad > tol else ''}. {cause}",
        ConvergenceWarning,
        stacklevel=7,  # the line that called fit
    )
