"""Optimizers by name, class or partial, and their default options."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch.optim import Optimizer

OptimizerLike: TypeAlias = "str | type[Optimizer] | partial[Any]"


@dataclass(frozen=True)
class KnownOptimizer:
    """Default options and properties of an optimizer of ``torch.optim``.

    Parameters
    ----------
    lr : float
        Default learning rate.
    options : dict
        Other defaults that differ from those of torch.
    is_elementwise : bool
        Whether the step of a parameter depends on the gradients of this parameter only.
    scales_with_curvature : bool
        Whether a step is proportional to the gradient, so that `lr` is divided by the curvature.
    """

    lr: float
    options: dict[str, Any] = field(default_factory=dict)
    is_elementwise: bool = True
    scales_with_curvature: bool = False


# In measurements these defaults reach the optimum in orthonormal coordinates, in which a rate means the same for every
# data set. Other options have torch's defaults. Weight decay is 0, since `alpha` penalizes the coefficients, and
# weight decay would penalize the parameters of training.
_KNOWN = {
    "adadelta": KnownOptimizer(3.0),
    "adafactor": KnownOptimizer(0.2, is_elementwise=False),
    "adagrad": KnownOptimizer(1.0),
    "adam": KnownOptimizer(0.1),
    "adamax": KnownOptimizer(0.1),
    "adamw": KnownOptimizer(0.1, {"weight_decay": 0.0}),
    "asgd": KnownOptimizer(0.5, {"lambd": 0.0}, scales_with_curvature=True),
    "lbfgs": KnownOptimizer(
        1.0,
        {
            "max_iter": 1,
            "max_eval": 25,
            "history_size": 10,
            "line_search_fn": "strong_wolfe",
            "tolerance_grad": 0.0,
            "tolerance_change": 1e-32,
        },
        is_elementwise=False,
    ),
    "muon": KnownOptimizer(0.03, {"weight_decay": 0.0}, is_elementwise=False),
    "nadam": KnownOptimizer(0.1),
    "radam": KnownOptimizer(0.1),
    "rmsprop": KnownOptimizer(0.1),
    "rprop": KnownOptimizer(0.1, {"step_sizes": (1e-12, 50.0)}),
    "sgd": KnownOptimizer(0.5, scales_with_curvature=True),
}


@dataclass(frozen=True)
class OptimizerSpec:
    """The class of an optimizer and its options.

    Parameters
    ----------
    factory : subclass of torch.optim.Optimizer
    options : dict
        Keyword arguments: the defaults in the table, those of the user's partial, and `lr`.
    lr_is_default : bool
        Whether `lr` is the default in the table. Such a rate follows a schedule.
    known : KnownOptimizer or None
        The entry in the table; None for other classes.
    """

    factory: Any
    options: dict[str, Any]
    lr_is_default: bool
    known: KnownOptimizer | None

    @property
    def is_lbfgs(self) -> bool:
        """Whether this is torch's L-BFGS."""
        import torch

        return issubclass(self.factory, torch.optim.LBFGS)

    @property
    def demands_closure(self) -> bool:
        """Whether ``step`` needs a closure that evaluates the objective."""
        return _default(self.factory.step, "closure") is inspect.Parameter.empty

    @property
    def sets_first_step(self) -> bool:
        """Whether the default rate sets the length of the first step: for L-BFGS with one iteration a step."""
        return self.is_lbfgs and self.lr_is_default and self.options["max_iter"] == 1

    @property
    def is_elementwise(self) -> bool:
        """Whether the step of a parameter depends on the gradients of this parameter only."""
        return self.known is not None and self.known.is_elementwise

    @property
    def scales_with_curvature(self) -> bool:
        """Whether the default rate is divided by the curvature."""
        return self.known is not None and self.known.scales_with_curvature


@cache
def optimizer_names() -> dict[str, type[Optimizer]]:
    """Return the optimizers of ``torch.optim`` that take dense tensors, by lower-case name."""
    import torch
    from torch.optim import Optimizer

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
        If the name is unknown, if the class is not an optimizer of dense tensors, or if there is no default
        for its learning rate.
    """
    factory, options = _class_and_options(optimizer)
    known = _KNOWN.get(factory.__name__.lower()) if factory in optimizer_names().values() else None
    lr_is_default = lr is None and known is not None and "lr" not in options
    defaults = {} if known is None else {"lr": known.lr} | known.options
    options = defaults | options | ({} if lr is None else {"lr": float(lr)})
    # `foreach` joins the updates of many tensors. For a single tensor it is overhead.
    if _default(factory, "foreach") is None:
        options.setdefault("foreach", False)
    if "lr" not in options and _default(factory, "lr") is inspect.Parameter.empty:
        raise ValueError(f"The 'lr' parameter got None, but {factory.__name__} has no default for it: set a float.")
    return OptimizerSpec(factory, options, lr_is_default, known)


def _class_and_options(optimizer: OptimizerLike) -> tuple[Any, dict[str, Any]]:
    """Return the class of the optimizer and the keyword arguments of the partial."""
    import torch
    from torch.optim import Optimizer

    factory: Any = optimizer
    options: dict[str, Any] = {}
    if isinstance(factory, partial):
        if factory.args:
            raise ValueError(
                f"The 'optimizer' parameter got {optimizer!r}: a functools.partial may only set keyword "
                "arguments, since the first positional one is the parameters to train."
            )
        factory, options = factory.func, factory.keywords
    if isinstance(factory, Optimizer):
        name = type(factory).__name__
        raise ValueError(
            f"The 'optimizer' parameter got an instance of {name}, which belongs to other parameters. Give its name, "
            f"{name.lower()!r}, its class, or a functools.partial of its class for options."
        )
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


@cache
def _default(function: Any, name: str) -> Any:
    """Return the default of a parameter: ``inspect.Parameter.empty`` if it is required, ... if it does not exist."""
    parameter = inspect.signature(function).parameters.get(name)
    return ... if parameter is None else parameter.default
