"""The candidates of a grid, and which of them can take the fast path of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn import get_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from torchpoly._backend.device import Device, resolve_device
from torchpoly._backend.sklearn_compat import has_callbacks, validate_parameter_constraints
from torchpoly._estimator.leave_one_out import uses_leave_one_out
from torchpoly._estimator.regressor import TorchPolynomialRegressor
from torchpoly._estimator.spec import ModelSpec
from torchpoly._train.optimizers import OptimizerSpec, resolve_optimizer


@dataclass(frozen=True)
class Candidate:
    """A candidate that can take the fast path: a polynomial regressor with parameters of the grid.

    Parameters
    ----------
    index : int
        Position in the grid.
    estimator : TorchPolynomialRegressor
        The regressor with its parameters set. It is not fitted.
    steps : dict of str to object
        Parameters of the grid for the steps of a pipeline before the regressor.
    optimizer : OptimizerSpec
    spec : ModelSpec
    device : torch.device or None
        Where features are computed.
    """

    index: int
    estimator: TorchPolynomialRegressor
    steps: dict[str, Any]
    optimizer: OptimizerSpec
    spec: ModelSpec
    device: Device

    @property
    def has_formula(self) -> bool:
        """Whether training reaches the least squares in its first step, so that the search solves for them."""
        return self.optimizer.sets_first_step and self.spec.basis == "orthonormal"

    @property
    def trains_together(self) -> bool:
        """Whether it trains with other candidates, and one product evaluates their polynomials."""
        in_lockstep = self.optimizer.is_elementwise and not self.estimator.verbose
        return (self.has_formula or in_lockstep) and self.estimator.extrapolation == "continue"

    @property
    def same_polynomial(self) -> tuple[object, ...]:
        """A key that is equal for candidates that train to the same polynomial."""
        estimator = self.estimator
        if self.has_formula:
            return estimator.degree, float(estimator.alpha)
        training = id(estimator.optimizer), estimator.lr, estimator.n_iter, estimator.tol
        return estimator.degree, float(estimator.alpha), estimator.basis, *training


def as_candidate(estimator: Any) -> Any:
    """Return the estimator, with the regressor in it marked as a candidate."""
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    if isinstance(last, TorchPolynomialRegressor):
        last._is_candidate = True
    return estimator


class CandidateParser:
    """Makes candidates of the parameters in a grid, where the fast path applies.

    Parameters
    ----------
    estimator : estimator
        The estimator of the search.

    Attributes
    ----------
    prefix : str
        The prefix of the regressor's parameters in the grid, such as ``"regressor__"``.
    reason : str or None
        Why no candidate can take the fast path; None if some can.
    """

    def __init__(self, estimator: Any) -> None:
        last, self.prefix, self._steps = estimator, "", set[str]()
        if type(estimator) is Pipeline and estimator.steps:
            name, last = estimator.steps[-1]
            self.prefix = f"{name}__"
            self._steps = {name for name, _ in estimator.steps[:-1]}
        self.reason = None
        if type(last) is not TorchPolynomialRegressor:
            self.reason = (
                "the estimator is no TorchPolynomialRegressor, and no Pipeline of scikit-learn that ends in one"
            )
        elif self.prefix and len({name for name, _ in estimator.steps}) < len(estimator.steps):
            self.reason = "two steps of the Pipeline have the same name"
        elif self.prefix and getattr(estimator, "transform_input", None):
            self.reason = "the Pipeline transforms inputs of its steps"
        elif has_callbacks(last) or has_callbacks(estimator):
            self.reason = "the estimator has callbacks"
        else:
            self._defaults = clone(last).get_params(deep=False)
            try:
                last._validate_params()
                self._is_valid = True
            except ValueError:
                self._is_valid = False

    def parse(self, index: int, parameters: dict[str, Any], fit_params: dict[str, Any]) -> Candidate | str | ValueError:
        """Return a candidate, or the reason why it falls back to scikit-learn's evaluation.

        Parameters
        ----------
        index : int
            Position in the grid.
        parameters : dict of str to object
            Parameters of the grid at this position.
        fit_params : dict of str to object
            Metadata for `fit`, such as ``sample_weight``.
        """
        if self.prefix and fit_params and get_config()["enable_metadata_routing"]:
            return "metadata are routed to the steps of a Pipeline"
        unknown = [name for name in fit_params if name != f"{self.prefix}sample_weight"]
        unknown = [name for name in unknown if name.split("__")[0] not in self._steps]
        if unknown:
            return f"fit is given {unknown[0]!r}"
        own, steps = {}, {}
        for name, value in parameters.items():
            inner = name.removeprefix(self.prefix)
            if name.startswith(self.prefix) and inner in self._defaults:
                own[inner] = value
            elif "__" in name and name.split("__")[0] in self._steps:
                steps[name] = value
            else:
                return f"the grid sets {name!r}"
        try:
            # To validate all 17 parameters takes 0.2 ms, 14 times as long as two of them.
            validate_parameter_constraints(
                TorchPolynomialRegressor._parameter_constraints,
                own if self._is_valid else self._defaults | own,
                TorchPolynomialRegressor.__name__,
            )
            estimator = TorchPolynomialRegressor(**self._defaults | own)
            optimizer, device = resolve_optimizer(estimator.optimizer, estimator.lr), resolve_device(estimator.device)
        except ValueError as error:
            return error
        spec = estimator._spec()
        if not spec.is_least_squares:
            return "losses other than the squared error need the rows in each iteration"
        if uses_leave_one_out(spec):
            return "leave-one-out errors, which choose degree or alpha, need the rows"
        if estimator.batch_size is not None:
            return "mini-batches need the rows in each iteration"
        return Candidate(index, estimator, steps, optimizer, spec, device)
