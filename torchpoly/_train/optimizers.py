"""Which optimizer: by name, class or partial, with defaults that reach the optimum."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch.optim import Optimizer

OptimizerLike: TypeAlias = "str | type[Optimizer] | partial"


@dataclass(frozen=True)
class KnownOptimizer:
    """What is known of an optimizer of ``torch.optim``.

    Parameters
    ----------
    lr : float
        Default learning rate.
    options : dict
        Other defaults, where they are not torch's own.
    is_elementwise : bool
        Whether it steps each entry of the parameters by what it knows of that entry alone.
    scales_with_curvature : bool
        Whether it steps in proportion to the gradient, so that `lr` is in units of the inverse curvature.
    """

    lr: float
    options: dict[str, Any] = field(default_factory=dict)
    is_elementwise: bool = True
    scales_with_curvature: bool = False


# Defaults, measured to reach the optimum in orthonormal coordinates, where they mean the same for
# every data set. What is not named here is torch's own. Weight decay is off: `alpha` is the
# penalty, and it is on the coefficients rather than on the parameters of training.
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
    """An optimizer before it has seen parameters.

    Parameters
    ----------
    factory : subclass of torch.optim.Optimizer
    options : dict
        Keyword arguments: the defaults above, those of the user's partial, and `lr`.
    lr_is_default : bool
        Whether `lr` is one of the defaults above, which then follows a schedule.
    known : KnownOptimizer or None
        What the table above says of the factory.
    """

    factory: Any
    options: dict[str, Any]
    lr_is_default: bool
    known: KnownOptimizer | None

    @property
    def is_lbfgs(self) -> bool:
        """Whether it is torch's L-BFGS, which searches along lines."""
        import torch

        return issubclass(self.factory, torch.optim.LBFGS)

    @property
    def demands_closure(self) -> bool:
        """Whether its step evaluates the objective by itself."""
        return _default(self.factory.step, "closure") is inspect.Parameter.empty

    @property
    def sets_first_step(self) -> bool:
        """Whether the first step of L-BFGS is ours to scale: no rate is given, nor several iterations a step."""
        return self.is_lbfgs and self.lr_is_default and self.options["max_iter"] == 1

    @property
    def is_elementwise(self) -> bool:
        """Whether it does to each entry of the parameters what it would do to it alone."""
        return self.known is not None and self.known.is_elementwise

    @property
    def scales_with_curvature(self) -> bool:
        """Whether its rate is in units of the inverse curvature."""
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
        If the name is not known, the class is no optimizer of dense tensors, or its learning
        rate has no default.
    """
    factory, options = _class_and_options(optimizer)
    known = _KNOWN.get(factory.__name__.lower()) if factory in optimizer_names().values() else None
    lr_is_default = lr is None and known is not None and "lr" not in options
    defaults = {} if known is None else {"lr": known.lr} | known.options
    options = defaults | options | ({} if lr is None else {"lr": float(lr)})
    # Fusing the updates of many tensors is overhead for the one that there is.
    if _default(factory, "foreach") is None:
        options.setdefault("foreach", False)
    if "lr" not in options and _default(factory, "lr") is inspect.Parameter.empty:
        raise ValueError(f"The 'lr' parameter got None, but {factory.__name__} has no default for it: set a float.")
    return OptimizerSpec(factory, options, lr_is_default, known)


def _class_and_options(optimizer: OptimizerLike) -> tuple[Any, dict[str, Any]]:
    """Return the class that the user means and the keywords of the user's partial."""
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
    """Return the default of a parameter: ``inspect.Parameter.empty`` if it must be given, ... if there is no such."""
    parameter = inspect.signature(function).parameters.get(name)
    return ... if parameter is None else parameter.default
