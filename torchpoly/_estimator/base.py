"""The base class of the estimator: parameters, fitted state, training and pickling."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgWarning
from sklearn import get_config
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin

from torchpoly._backend.array_api import device_of
from torchpoly._backend.device import DEVICE, OPTIMIZER
from torchpoly._backend.sklearn_compat import (
    AttrsDict,
    CallbackSupportMixin,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from torchpoly._estimator.callbacks import FitTasks
from torchpoly._estimator.leave_one_out import LOO
from torchpoly._estimator.saved_state import from_plain, to_plain
from torchpoly._estimator.spec import BasisName, ModelSpec, loss_class
from torchpoly._gram.merging import RunningGram
from torchpoly._gram.uncertainty import Uncertainty
from torchpoly._loss.custom import LossFunction
from torchpoly._loss.named import LOSSES, LossName
from torchpoly._polynomial.domain import VERY_NARROW
from torchpoly._polynomial.fitted import Extrapolation, FittedPolynomial
from torchpoly._polynomial.index_set import IndexSet
from torchpoly._train.loop import minimize
from torchpoly._train.optimizers import OptimizerLike, OptimizerSpec
from torchpoly._train.problem import Problem, average_curves

if TYPE_CHECKING:
    import torch

# The version of the saved state. It is incremented if earlier versions of torchpoly cannot read a new state.
_FORMAT = 2
# Fitted attributes that are dataclasses, and are saved as dicts of arrays, numbers and strings.
_RECORDS = {"_polynomial": FittedPolynomial, "_running_gram": RunningGram, "_uncertainty": Uncertainty}
# Attributes that some fits do not set.
_OPTIONAL = {"dual_gap_", "loo_path_", "_running_gram"}.union(*(kind.attributes for kind in LOSSES.values()))
# The covariance of the coefficients is saved up to this number of terms, 4 MB or, with dependent terms, 8 MB.
_MAX_SAVED_TERMS = 1000
# Number of stack frames from a warning in `_warn_of_columns` to the line that calls fit.
_STACKLEVEL = 6


class PolynomialBase(CallbackSupportMixin, MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Base class of :class:`TorchPolynomialRegressor`, which documents the parameters."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "degree": [Interval(Integral, 0, None, closed="left"), StrOptions({LOO})],
        "optimizer": [str, callable, OPTIMIZER],  # an instance is refused with advice
        "lr": [Interval(Real, 0, np.inf, closed="neither"), None],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, np.inf, closed="left"), None],
        "loss": [StrOptions(LOSSES.keys()), callable],
        "epsilon": [Interval(Real, 1.0, np.inf, closed="left")],
        "quantile": [Interval(Real, 0.0, 1.0, closed="neither")],
        "alpha": [Interval(Real, 0, np.inf, closed="left"), StrOptions({LOO})],
        "basis": [StrOptions(set(get_args(BasisName)))],
        "interaction_only": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        # As in sklearn.preprocessing.SplineTransformer.
        "extrapolation": [StrOptions(set(get_args(Extrapolation)))],
        "device": [str, DEVICE],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    n_features_in_: int
    feature_names_in_: NDArray[np.object_]
    n_iter_: int
    rank_: int
    degree_: int
    alpha_: float
    loo_path_: dict[str, NDArray[Any]]
    # A float, or an array with a number for each target.
    scale_: Any
    dual_gap_: Any
    _polynomial: FittedPolynomial
    _single_target: bool
    # A typical residual of each target, in units of its scale; NaN if unknown. Earlier versions did not save it.
    _residual_size: list[float] | None = None
    # The covariance of the coefficients. Earlier versions did not save it.
    _uncertainty: Uncertainty | None = None
    # The loss after each iteration.
    _losses: list[float]
    # The Gram matrix of the last fit and that of all calls of partial_fit, to which later rows are added.
    _read: RunningGram | None
    _running_gram: RunningGram
    # Whether a search fits it as a candidate, and not as the model that it returns.
    _is_candidate: bool = False
    # Library and device of X in fit, if scikit-learn's array_api_dispatch is set.
    _namespace: tuple[str, str] | None = None

    def __init__(
        self,
        degree: int | Literal["loo"] = 3,
        *,
        optimizer: OptimizerLike = "lbfgs",
        lr: float | None = None,
        n_iter: int = 1000,
        tol: float | None = 1e-8,
        loss: LossName | LossFunction = "squared_error",
        epsilon: float = 1.35,
        quantile: float = 0.5,
        alpha: float | Literal["loo"] = 0.0,
        basis: BasisName = "orthonormal",
        interaction_only: bool = False,
        batch_size: int | None = None,
        extrapolation: Extrapolation = "continue",
        device: str | torch.device = "cpu",
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int | bool = 0,
    ) -> None:
        self.degree = degree
        self.optimizer = optimizer
        self.lr = lr
        self.n_iter = n_iter
        self.tol = tol
        self.loss = loss
        self.epsilon = epsilon
        self.quantile = quantile
        self.alpha = alpha
        self.basis = basis
        self.interaction_only = interaction_only
        self.batch_size = batch_size
        self.extrapolation = extrapolation
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and fitted state as arrays, numbers and strings, with the version of the format.

        The Gram matrix of the last :meth:`fit` is left out. Only a later :meth:`partial_fit` would need it.
        """
        from torchpoly import __version__

        # A copy, as another thread may fit meanwhile.
        state = {name: value for name, value in dict(super().__getstate__()).items() if name != "_read"}
        if (uncertainty := state.get("_uncertainty")) is not None:
            is_small = len(uncertainty.matrix) <= _MAX_SAVED_TERMS
            state["_uncertainty"] = uncertainty.packed() if is_small else None
        records = {name: to_plain(state[name]) for name in _RECORDS if state.get(name) is not None}
        return state | records | {"_format": _FORMAT, "_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a state that this version or an earlier one has saved.

        Raises
        ------
        ValueError
            If this version does not know the format of the state.
        """
        state = state.copy()
        number, version = state.pop("_format", None), state.pop("_version", "of another kind")
        if number != _FORMAT:
            raise ValueError(
                f"This model was saved by torchpoly {version} in format {number}, and this version reads format "
                f"{_FORMAT}. Upgrade torchpoly to load it, or fit the model again."
            )
        saved = {name: state[name] for name in _RECORDS if state.get(name) is not None}
        super().__setstate__(state | {name: from_plain(_RECORDS[name], record) for name, record in saved.items()})

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        """Return the fitted attributes for scikit-learn's HTML picture, without properties: these may take long."""
        stored = {name: value for name, value in vars(self).items() if name.endswith("_") and name[0] != "_"}
        shown = {
            name: {"type_name": type(value).__name__, "value": value}
            | ({"shape": value.shape, "dtype": value.dtype} if isinstance(value, np.ndarray) else {})
            for name, value in sorted(stored.items())
        }
        return AttrsDict(fitted_attrs=shown, estimator_class=type(self), doc_link=doc_link)

    def _spec(self) -> ModelSpec:
        index_options, loss_options = (
            {name: getattr(self, name) for name in kind.parameters} for kind in (IndexSet, loss_class(self.loss))
        )
        return ModelSpec(index_options, self.loss, loss_options, cast(float, self.alpha), self.basis)

    def _train(
        self,
        problem: Problem,
        optimizer: OptimizerSpec,
        n_rows: int,
        single_target: bool,
        tasks: FitTasks | None = None,
        *,
        weight_unit: float = 1.0,
    ) -> None:
        """Solve a problem and set the fitted attributes.

        Parameters
        ----------
        problem : Problem
        optimizer : OptimizerSpec
        n_rows : int
            Number of rows of positive weight.
        single_target : bool
            Whether y has one dimension.
        tasks : FitTasks, optional
            The callbacks of the fit.
        weight_unit : float
            The largest weight of the user, by which the weights were divided.
        """
        _warn_of_columns(problem, getattr(self, "feature_names_in_", None))

        def fitted(losses: ArrayLike) -> dict[str, Any]:
            return problem.fitted_attributes(single_target) | {
                "_losses": np.ravel(losses).tolist(),
                "n_iter_": np.size(losses),
            }

        if tasks is not None:
            tasks.train(fitted, self.n_iter * len(problem.parts))
        curves = []
        for part in problem.parts:
            curve = minimize(
                part.objective,
                part.parameters,
                optimizer,
                n_iter=self.n_iter,
                tol=self.tol,
                batches=problem.batches(n_rows, self.random_state),
                program=part.program,
                callback=tasks,
                verbose=int(self.verbose),
            )
            curves.append(curve)
        # This fit does not set all attributes that an earlier fit can have set.
        for name in _OPTIONAL:
            self.__dict__.pop(name, None)
        self._read = None
        if problem.read is not None:
            read = RunningGram.of_equations(problem.read, problem.targets, problem.box, n_rows)
            self._read = None if read is None else read.weighing(weight_unit)
        self._namespace = None
        self._uncertainty = problem.uncertainty(n_rows)
        self.__dict__.update(fitted(average_curves(curves)))
        if tasks is not None:
            tasks.finish()

    def _validate_if_skipped(self) -> None:
        """Validate parameters under scikit-learn's `skip_parameter_validation`: wrong ones would not always fail."""
        if get_config()["skip_parameter_validation"]:
            self._validate_params()

    def _valid_extrapolation(self) -> Extrapolation:
        """Return `extrapolation`, or raise a ValueError. It can have changed since fit validated it."""
        constraints = {"extrapolation": self._parameter_constraints["extrapolation"]}
        validate_parameter_constraints(constraints, {"extrapolation": self.extrapolation}, type(self).__name__)
        return self.extrapolation

    def _device_for(self, X: Any) -> str | torch.device:
        """Return the device for features: that of X, unless the user has set another device."""
        return self.device if self.device != "cpu" else device_of(X) or self.device


def _warn_of_columns(problem: Problem, names: NDArray[Any] | None) -> None:
    """Warn of columns that nearly coincide, and of columns with a few extreme values."""

    def names_of(columns: NDArray[np.intp]) -> list[Any]:
        return (columns if names is None else names[columns]).tolist()

    domain = problem.basis.domain
    if domain.widths is not None and (very_narrow := domain.widths < VERY_NARROW).any():
        warnings.warn(
            f"The columns {names_of(domain.columns_along(very_narrow))} nearly coincide: along one direction they "
            f"differ by less than {VERY_NARROW:g} of their range, and the fit uses that difference. Where new rows are "
            "rounded otherwise, predictions may be far off. Give the difference as a column, drop one of the columns, "
            "or set alpha > 0.",
            LinAlgWarning,
            stacklevel=_STACKLEVEL,
        )
    if problem.extremes is not None and len(problem.extremes):
        warnings.warn(
            f"A few extreme values in columns {names_of(problem.extremes)} hide terms that the other rows could tell "
            "apart: beside them, the others lie so close together that their powers differ by rounding only. These "
            "terms are left out. Are the values placeholders for missing ones, as -9999? Drop or impute such rows, "
            "transform the columns (by a logarithm, say), or lower 'degree'.",
            LinAlgWarning,
            stacklevel=_STACKLEVEL,
        )
