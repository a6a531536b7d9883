"""The private names of scikit-learn that torchpoly uses, in one file, since a new version may rename them."""

# mypy: implicit-reexport
# ruff: noqa: F401

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sklearn.base import _fit_context
from sklearn.metrics._scorer import _MultimetricScorer as MultimetricScorer
from sklearn.metrics._scorer import _PassthroughScorer as PassthroughScorer
from sklearn.metrics._scorer import _Scorer as Scorer
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._search import _insert_error_scores as insert_error_scores
from sklearn.model_selection._search import _warn_or_raise_about_fit_failures as warn_or_raise_about_fit_failures
from sklearn.model_selection._validation import _fit_and_score as fit_and_score
from sklearn.model_selection._validation import _score as score
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._array_api import _convert_to_numpy as convert_to_numpy
from sklearn.utils._array_api import device, get_namespace
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.metaestimators import available_if as _available_if
from sklearn.utils.validation import _check_feature_names as check_feature_names
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_n_features as check_n_features
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _get_feature_names as get_feature_names
from sklearn.utils.validation import _num_samples as num_samples

if TYPE_CHECKING:

    class CallbackSupportMixin:
        """The class of scikit-learn, which has no types."""

        def set_callbacks(self, *callbacks: Any) -> Self:
            """Set the callbacks of the next fits."""

else:
    try:
        from sklearn.callback import CallbackSupportMixin
    except ImportError:  # scikit-learn before 1.9

        class CallbackSupportMixin:
            """An empty class: this version of scikit-learn has no callbacks."""


try:
    from sklearn.utils._repr_html.fitted_attributes import AttrsDict
except ImportError:  # scikit-learn before 1.9, which shows no fitted attributes
    AttrsDict = None


Method = TypeVar("Method", bound=Callable[..., Any])


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Return scikit-learn's decorator of fit methods. Here it has a type, which keeps that of the method."""
    return _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)


def available_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]:
    """Return scikit-learn's decorator of methods that do not always exist. Here it has a type."""
    return _available_if(check)


def has_callbacks(estimator: Any) -> bool:
    """Whether callbacks are set on the estimator."""
    return bool(getattr(estimator, "_skl_callbacks", None))
