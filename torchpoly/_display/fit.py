"""Plot of data and fit over one feature, by scikit-learn's Display convention."""

from __future__ import annotations

from collections import Counter
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from torchpoly._backend.array_api import to_host_array
from torchpoly._backend.sklearn_compat import (
    check_matplotlib_support,
    get_feature_names,
    is_pandas_na,
    is_scalar_nan,
    safe_indexing,
)
from torchpoly._backend.torch_state import overflow_as_value_error
from torchpoly._backend.validation import check_numbers
from torchpoly._display.loss_curve import one_axes
from torchpoly.inspection._intervals import predict_interval


class PolynomialFitDisplay:
    """Data and fitted curve over one feature.

    The other features have their median or, if they are not numbers, their most frequent value. Use
    :meth:`from_estimator` to make the display. Its parameters become attributes.

    Parameters
    ----------
    grid, curve : ndarray of shape (n_points,)
        Values of the feature, and the predictions at these values.

    feature : ndarray of shape (n_samples,)
        Values of the feature in the data.

    y : ndarray of shape (n_samples,) or None
        The target. Without it, only the curve is drawn.

    predictions : ndarray of shape (n_samples,) or None
        Predictions for the data. The residuals are drawn if they are given.

    feature_name, target_name : str
        Labels of the axes.

    lower, upper : ndarray of shape (n_points,), default=None
        Ends of an interval at the values of `grid`. The band between them is drawn.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The curve.

    band_ : matplotlib PolyCollection or None
        The band of the interval.

    ax_ : matplotlib Axes
        Axes with data and curve.

    residuals_ax_ : matplotlib Axes or None
        Axes with the residuals.

    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    LossCurveDisplay : The training rather than the fit.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import PolynomialFitDisplay, TorchPolynomialRegressor
    >>> x = np.linspace(-np.pi, np.pi, 200)
    >>> X, y = x[:, None], np.sin(x)
    >>> model = TorchPolynomialRegressor().fit(X, y)
    >>> display = PolynomialFitDisplay.from_estimator(model, X, y, residuals=True)
    """

    __module__ = "torchpoly"

    line_: Any
    band_: Any
    ax_: Any
    residuals_ax_: Any
    figure_: Any

    def __init__(
        self,
        *,
        grid: NDArray[Any],
        curve: NDArray[Any],
        feature: NDArray[Any],
        y: NDArray[Any] | None,
        predictions: NDArray[Any] | None,
        feature_name: str,
        target_name: str,
        lower: NDArray[Any] | None = None,
        upper: NDArray[Any] | None = None,
    ) -> None:
        self.grid = grid
        self.curve = curve
        self.feature = feature
        self.y = y
        self.predictions = predictions
        self.feature_name = feature_name
        self.target_name = target_name
        self.lower = lower
        self.upper = upper

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        feature: int | str = 0,
        target: int = 0,
        residuals: bool = False,
        interval: Literal["prediction", "confidence"] | None = None,
        confidence_level: float = 0.95,
        grid_resolution: int = 200,
        ax: Any = None,
        **kwargs: Any,
    ) -> PolynomialFitDisplay:
        """Draw the fit of an estimator.

        Parameters
        ----------
        estimator : estimator instance
            Any fitted regressor, or a Pipeline that ends in one.

        X : array-like or dataframe of shape (n_samples, n_features)
            The data. The curve spans the range of the feature in the data.

        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            The target. Without it, only the curve is drawn, for example to compare several fits on one `ax`.

        feature : int or str, default=0
            The feature's index, or its name in a dataframe.

        target : int, default=0
            Index of the target, if there are several.

        residuals : bool, default=False
            Whether ``y - predictions`` is drawn over the feature in second axes.

        interval : {"prediction", "confidence"}, default=None
            Whether a band shows the interval for a new reading, or that for the mean of y, of
            :func:`torchpoly.inspection.predict_interval`. The estimator is then a TorchPolynomialRegressor with the
            squared error, a search over one, or a Pipeline that ends in one of them.

        confidence_level : float, default=0.95
            That of the interval.

        grid_resolution : int, default=200
            Number of points of the curve.

        ax : matplotlib Axes, or two of them with `residuals`, default=None
            Axes to draw on, which may have other curves; ``None`` makes new axes.

        **kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        PolynomialFitDisplay
            The display with the artists that were drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the feature does not exist or has no numbers, if `residuals` is set without `y`, or if there are no
            standard errors for the `interval`.

        Examples
        --------
        >>> import numpy as np
        >>> from torchpoly import PolynomialFitDisplay, TorchPolynomialRegressor
        >>> X = np.random.default_rng(0).uniform(-1, 1, (50, 2))
        >>> y = X[:, 0] * X[:, 1]
        >>> model = TorchPolynomialRegressor(2).fit(X, y)
        >>> PolynomialFitDisplay.from_estimator(model, X, y, feature=1).ax_.get_xlabel()
        'x1'
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if residuals and y is None:
            raise ValueError("The 'residuals' parameter got True, which takes the 'y' parameter. It got None.")
        X, y = to_host_array(X), to_host_array(y)
        check_consistent_length(X, y)
        names = get_feature_names(X)
        check_numbers(y, "y")
        if names is None:  # the steps of a Pipeline may take the dates of a dataframe
            check_numbers(X, "X")
        with overflow_as_value_error():
            columns = list(np.asarray(X, dtype=np.float64).T) if names is None else [X[name] for name in names]
        index = _column(feature, names, len(columns))
        drawn = _numbers(columns[index])
        if drawn is None or not np.isfinite(drawn).any():
            raise ValueError(
                f"The 'feature' parameter got {feature!r}, a column without numbers: draw over another one."
            )
        span = np.nanmin(drawn), np.nanmax(drawn)
        is_logarithmic = ax is not None and np.ravel(ax)[0].get_xscale() == "log" and span[0] > 0
        grid = (np.geomspace if is_logarithmic else np.linspace)(*span, grid_resolution)
        points = [grid if place == index else _typical(column, grid_resolution) for place, column in enumerate(columns)]
        # Estimators that were fitted to a dataframe predict for dataframes of the same type.
        frame: Any = np.column_stack(points) if names is None else type(X)(dict(zip(names, points, strict=True)))
        ends = None
        if interval is not None:
            ends = predict_interval(estimator, frame, confidence_level=confidence_level, kind=interval)
            ends = ends.reshape(len(grid), -1, 2)[:, target]
        display = cls(
            grid=grid,
            curve=column_of(estimator.predict(frame), target),
            feature=drawn,
            y=None if y is None else column_of(y, target),
            predictions=column_of(estimator.predict(X), target) if residuals else None,
            feature_name=f"x{index}" if names is None else str(names[index]),
            target_name=str(getattr(y, "name", None) or "y"),
            lower=None if ends is None else ends[:, 0],
            upper=None if ends is None else ends[:, 1],
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax: Any = None, **kwargs: Any) -> PolynomialFitDisplay:
        """Draw data and curve, and the residuals if there are predictions for the data.

        Parameters
        ----------
        ax : matplotlib Axes, or two of them for the residuals too, default=None
            Axes to draw on, which may have other curves; ``None`` makes new axes.

        **kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        PolynomialFitDisplay
            The display with the artists that were drawn.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from torchpoly import PolynomialFitDisplay, TorchPolynomialRegressor
        >>> X, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0]
        >>> model = TorchPolynomialRegressor(2).fit(X, y)
        >>> display = PolynomialFitDisplay.from_estimator(model, X, y)
        >>> again = display.plot(ax=plt.figure().gca(), color="k")
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        self.ax_, self.residuals_ax_ = (one_axes(ax), None) if self.predictions is None else _two_axes(ax)
        self.figure_ = self.ax_.figure
        dots: dict[str, Any] = {"s": 12, "color": "0.6", "linewidths": 0}
        if self.y is not None:
            self.ax_.scatter(self.feature, self.y, **dots)
        (self.line_,) = self.ax_.plot(self.grid, self.curve, **({"color": "tab:red"} | kwargs))
        self.band_ = None
        if self.lower is not None and self.upper is not None:
            color = self.line_.get_color()
            self.band_ = self.ax_.fill_between(self.grid, self.lower, self.upper, color=color, alpha=0.2, linewidth=0)
        # Without y, the name of the target is unknown, so labels of earlier curves stay.
        if self.y is not None or not self.ax_.get_ylabel():
            self.ax_.set(xlabel=self.feature_name, ylabel=self.target_name)
        if self.line_.get_label()[0] != "_":
            self.ax_.legend()
        if self.residuals_ax_ is not None and self.y is not None:
            self.residuals_ax_.axhline(0.0, color=self.line_.get_color(), linewidth=1)
            self.residuals_ax_.scatter(self.feature, self.y - self.predictions, **dots)
            self.residuals_ax_.set(xlabel=self.feature_name, ylabel="residual")
        return self


def _two_axes(ax: Any) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(1, 2, figsize=(10, 4), layout="constrained")[1]
    if np.size(ax) != 2:
        raise ValueError(
            f"The 'ax' parameter got {np.size(ax)} axes; with residuals it must be two, as plt.subplots(1, 2) makes."
        )
    return np.ravel(ax)


def _column(feature: int | str, names: NDArray[Any] | None, n_features: int) -> int:
    """Return the index of a column from its index or name."""
    if isinstance(feature, str):
        if names is None or feature not in names:
            there = "X has no column names" if names is None else f"X has columns {list(names)}"
            raise ValueError(f"The 'feature' parameter got {feature!r}, but {there}.")
        return list(names).index(feature)
    if not isinstance(feature, Integral) or not 0 <= feature < n_features:
        raise ValueError(f"The 'feature' parameter got {feature}; it must be an int from 0 to {n_features - 1}.")
    return int(feature)


def _numbers(column: Any) -> NDArray[Any] | None:
    """Return a column as floats, or None if it does not have numbers."""
    values = np.asarray(column)
    is_category = getattr(column.dtype, "name", "") in {"bool", "boolean", "category"}
    if is_category or values.dtype.kind not in "iufO" or any(isinstance(value, str) for value in values.flat):
        return None
    try:
        return np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _typical(column: Any, size: int) -> Any:
    """Return `size` copies of the median of a column, or of its most frequent value if it does not have numbers."""
    numbers = _numbers(column)
    if numbers is not None:
        return np.full(size, np.nanmedian(numbers))
    values = np.asarray(column).tolist()
    present = Counter(value for value in values if not (value is None or is_scalar_nan(value) or is_pandas_na(value)))
    row = values.index(present.most_common(1)[0][0]) if present else 0
    copies = safe_indexing(column, np.full(size, row))
    # The dataframe would align a pandas Series by its index.
    return getattr(copies, "array", copies)


def column_of(values: Any, target: int) -> NDArray[Any]:
    """Return one target of predictions or of y."""
    columns = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    if not isinstance(target, Integral) or not 0 <= target < columns.shape[1]:
        raise ValueError(f"The 'target' parameter got {target}; it must be an int from 0 to {columns.shape[1] - 1}.")
    return columns[:, target]
