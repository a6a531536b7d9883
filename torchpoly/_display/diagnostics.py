"""Plots of residuals and leverages, by scikit-learn's Display convention."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from torchpoly._backend.array_api import to_host_array
from torchpoly._backend.sklearn_compat import check_matplotlib_support
from torchpoly._display.fit import column_of
from torchpoly.inspection._leverage import influence

# Contours of Cook's distance, as R draws them.
_COOKS_DISTANCES = 0.5, 1.0


class DiagnosticsDisplay:
    """Four plots that show whether a fit is right: fit, residuals, their distribution, and their influence.

    Use :meth:`from_estimator` to make the display. Its parameters become attributes.

    Parameters
    ----------
    y, predictions : ndarray of shape (n_samples,)
        The target, and the predictions for it.

    leverage : ndarray of shape (n_samples,)
        Leverages of the rows.

    studentized_residuals, externally_studentized_residuals : ndarray of shape (n_samples,)
        Residuals divided by their standard errors, with the standard deviation of all rows, and of all other rows.

    n_parameters : float
        Number of independent terms, for the contours of Cook's distance.

    target_name : str
        Name of the target.

    Attributes
    ----------
    axes_ : ndarray of shape (4,)
        Axes with actual values over predictions, residuals over predictions, quantiles of the studentized residuals
        over those of the normal distribution, and externally studentized residuals over leverages.

    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    PolynomialFitDisplay : The curve over one feature.
    torchpoly.inspection.influence : The numbers of the plots.

    Notes
    -----
    What to look for:

    - In the second plot, a bend says that the degree is too low. A funnel says that errors are larger in some places.
    - In the third plot, normal errors lie on the line.
    - In the last plot, rows at the right have much leverage. Rows beyond a dashed contour of Cook's distance move the
      polynomial much. Residuals above 3 are rare for normal errors.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import DiagnosticsDisplay, TorchPolynomialRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (100, 1))
    >>> y = X[:, 0] ** 2 + 0.1 * rng.normal(size=100)
    >>> display = DiagnosticsDisplay.from_estimator(TorchPolynomialRegressor(degree=2).fit(X, y), X, y)
    """

    __module__ = "torchpoly"

    axes_: Any
    figure_: Any

    def __init__(
        self,
        *,
        y: NDArray[Any],
        predictions: NDArray[Any],
        leverage: NDArray[np.float64],
        studentized_residuals: NDArray[np.float64],
        externally_studentized_residuals: NDArray[np.float64],
        n_parameters: float,
        target_name: str = "y",
    ) -> None:
        self.y = y
        self.predictions = predictions
        self.leverage = leverage
        self.studentized_residuals = studentized_residuals
        self.externally_studentized_residuals = externally_studentized_residuals
        self.n_parameters = n_parameters
        self.target_name = target_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        target: int = 0,
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> DiagnosticsDisplay:
        """Draw the diagnostics of a fit.

        Parameters
        ----------
        estimator : TorchPolynomialRegressor, search or Pipeline
            A fitted regressor, a fitted search over one, or a fitted Pipeline that ends in one of them. Its loss is the
            squared error.

        X : array-like of shape (n_samples, n_features)
            The rows of the fit.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            The targets of the fit.

        sample_weight : array-like of shape (n_samples,), default=None
            The weights of the fit. Rows of weight 0 are not drawn.

        target : int, default=0
            Index of the target, if there are several.

        ax : array of four matplotlib Axes, default=None
            Axes to draw on; ``None`` makes a new figure.

        scatter_kwargs, line_kwargs : dict, default=None
            Passed to :meth:`matplotlib.axes.Axes.scatter` for the points, and to :meth:`matplotlib.axes.Axes.plot` for
            the lines.

        Returns
        -------
        DiagnosticsDisplay
            The display with the artists that were drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            For the reasons of :func:`torchpoly.inspection.influence`.

        Examples
        --------
        >>> from torchpoly import DiagnosticsDisplay, TorchPolynomialRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
        >>> model = TorchPolynomialRegressor(degree=1).fit(X, y)
        >>> DiagnosticsDisplay.from_estimator(model, X, y).axes_[3].get_xlabel()
        'leverage'
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        found = influence(estimator, X, y, sample_weight=sample_weight)
        columns = [
            column_of(values, target)
            for values in (
                *(to_host_array(y), to_host_array(estimator.predict(X))),
                *(found.studentized_residuals, found.externally_studentized_residuals),
            )
        ]
        # The studentized residuals of rows of weight 0, and of rows through which each fit goes, are NaN.
        kept = found.leverage > 0
        actual, predictions, internal, external = (values[kept] for values in columns)
        display = cls(
            y=actual,
            predictions=predictions,
            leverage=found.leverage[kept],
            studentized_residuals=internal,
            externally_studentized_residuals=external,
            n_parameters=float(found.leverage.sum()),
            target_name=str(getattr(y, "name", None) or "y"),
        )
        return display.plot(ax=ax, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs)

    def plot(
        self,
        *,
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> DiagnosticsDisplay:
        """Draw the four plots.

        Parameters
        ----------
        ax : array of four matplotlib Axes, default=None
            Axes to draw on; ``None`` makes a new figure.

        scatter_kwargs, line_kwargs : dict, default=None
            Passed to :meth:`matplotlib.axes.Axes.scatter` for the points, and to :meth:`matplotlib.axes.Axes.plot` for
            the lines.

        Returns
        -------
        DiagnosticsDisplay
            The display with the artists that were drawn.

        Raises
        ------
        ValueError
            If `ax` is not four axes.

        Examples
        --------
        >>> from torchpoly import DiagnosticsDisplay, TorchPolynomialRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
        >>> model = TorchPolynomialRegressor(degree=1).fit(X, y)
        >>> display = DiagnosticsDisplay.from_estimator(model, X, y)
        >>> again = display.plot(scatter_kwargs={"color": "k"})
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        self.axes_ = _four_axes(ax)
        self.figure_ = self.axes_[0].figure
        dots = {"s": 14, "color": "C0", "linewidths": 0, "alpha": 0.7} | (scatter_kwargs or {})
        line = {"color": "0.5", "linewidth": 1} | (line_kwargs or {})
        fit, residuals, quantiles, leverages = self.axes_
        fit.scatter(self.predictions, self.y, **dots)
        ends = [min(self.y.min(), self.predictions.min()), max(self.y.max(), self.predictions.max())]
        fit.plot(ends, ends, **line)
        fit.set(xlabel=f"predicted {self.target_name}", ylabel=f"actual {self.target_name}", title="Fit")
        residuals.scatter(self.predictions, self.y - self.predictions, **dots)
        residuals.plot([self.predictions.min(), self.predictions.max()], [0, 0], **line)
        residuals.set(xlabel=f"predicted {self.target_name}", ylabel="residual", title="Residuals")
        self._draw_quantiles(quantiles, dots, line)
        self._draw_leverages(leverages, dots, line)
        return self

    def _draw_quantiles(self, ax: Any, dots: dict[str, Any], line: dict[str, Any]) -> None:
        values = np.sort(self.studentized_residuals[np.isfinite(self.studentized_residuals)])
        # Blom's plotting positions.
        normal = stats.norm.ppf((np.arange(1, len(values) + 1) - 0.375) / (len(values) + 0.25))
        ax.scatter(normal, values, **dots)
        ax.plot(normal[[0, -1]], normal[[0, -1]], **line)
        ax.set(xlabel="normal quantile", ylabel="studentized residual", title="Normal quantiles")

    def _draw_leverages(self, ax: Any, dots: dict[str, Any], line: dict[str, Any]) -> None:
        finite = np.isfinite(self.externally_studentized_residuals)
        ax.scatter(self.leverage[finite], self.externally_studentized_residuals[finite], **dots)
        low, high = ax.get_ylim()
        h = np.linspace(1e-2, 1, 200) * min(1.1 * float(self.leverage[finite].max()), 0.999)
        ax.plot(h[[0, -1]], [0, 0], **line)
        for distance in _COOKS_DISTANCES:
            contour = np.sqrt(distance * self.n_parameters * (1 - h) / h)
            for curve in (contour, -contour):
                ax.plot(h, curve, **(line | {"linestyle": "--"}))
                if low < curve[-1] < high:
                    ax.annotate(f" {distance:g}", (h[-1], curve[-1]), ha="left", va="center", fontsize="small")
        ax.set(
            xlabel="leverage",
            ylabel="externally studentized residual",
            title="Influence, with contours of Cook's distance",
        )
        ax.set_ylim(low, high)
        ax.locator_params(axis="x", nbins=5)


def _four_axes(ax: Any) -> Any:
    """Return four axes, new ones for None."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(2, 2, figsize=(9, 7), layout="constrained")[1].ravel()
    if np.size(ax) != 4:
        raise ValueError(f"The 'ax' parameter got {np.size(ax)} axes; it must be four, as plt.subplots(2, 2) makes.")
    return np.ravel(ax)
