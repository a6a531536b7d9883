"""Plot of the loss curve, by scikit-learn's Display convention."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.sklearn_compat import check_matplotlib_support

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LossCurveDisplay:
    """The loss over the iterations of a fit.

    Use :meth:`from_estimator` to make it. Its parameters become attributes.

    Parameters
    ----------
    loss_curve : ndarray of shape (n_iterations,)
        The loss after each iteration.

    name : str, default=None
        Name in the legend. Without a name, there is no legend.

    baseline : float, default=0.0
        This number is subtracted from the loss. With the loss of the optimum, a logarithmic axis shows
        the distance to the optimum.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The curve.

    ax_ : matplotlib Axes
        Axes with the curve.

    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    PolynomialFitDisplay : The fit rather than the training.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import LossCurveDisplay, TorchPolynomialRegressor
    >>> x = np.linspace(-np.pi, np.pi, 200)
    >>> X, y = x[:, None], np.sin(x)
    >>> adam = TorchPolynomialRegressor(optimizer="adam").fit(X, y)
    >>> sgd = TorchPolynomialRegressor(optimizer="sgd").fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(adam, name="Adam")
    >>> display = LossCurveDisplay.from_estimator(sgd, name="SGD", ax=display.ax_)
    """

    line_: Any
    ax_: Any
    figure_: Any

    __module__ = "torchpoly"

    def __init__(self, loss_curve: NDArray[Any], *, name: str | None = None, baseline: float = 0.0) -> None:
        self.loss_curve = loss_curve
        self.name = name
        self.baseline = baseline

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        name: str | None = None,
        baseline: float = 0.0,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> LossCurveDisplay:
        """Draw the loss curve of a fitted estimator.

        Parameters
        ----------
        estimator : estimator instance
            A fitted estimator with a ``loss_curve_``, a Pipeline that ends in one, or a search with a
            refitted ``best_estimator_``.

        name : str, default=None
            Name in the legend. ``None`` means the estimator with its parameters, up to 70 characters.

        baseline : float, default=0.0
            This number is subtracted from the loss, such as the loss at the optimum.

        ax : matplotlib Axes, default=None
            Axes to draw on, which may have other curves; ``None`` makes new axes.

        **kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        LossCurveDisplay
            The display with the artists that were drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.

        Examples
        --------
        >>> from torchpoly import LossCurveDisplay, TorchPolynomialRegressor
        >>> model = TorchPolynomialRegressor(2, optimizer="adam").fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0])
        >>> LossCurveDisplay.from_estimator(model).ax_.get_xlabel()
        'iteration'
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        last = getattr(estimator, "best_estimator_", estimator)
        last = last[-1] if hasattr(last, "named_steps") else last
        check_is_fitted(last, "loss_curve_")
        name = shorten(repr(last), 70, placeholder=" ...") if name is None else name
        return cls(np.asarray(last.loss_curve_), name=name, baseline=baseline).plot(ax=ax, **kwargs)

    def plot(self, *, ax: Axes | None = None, **kwargs: Any) -> LossCurveDisplay:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on, which may have other curves; ``None`` makes new axes.

        **kwargs : dict
            Passed to :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        LossCurveDisplay
            The display with the artists that were drawn.

        Examples
        --------
        >>> import numpy as np
        >>> from torchpoly import LossCurveDisplay
        >>> display = LossCurveDisplay(np.array([4.0, 2.0, 1.0]), name="by hand").plot(color="k")
        >>> display.line_.get_ydata()
        array([4., 2., 1.])
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        self.ax_ = one_axes(ax)
        self.figure_ = self.ax_.figure
        curve = self.loss_curve - self.baseline
        # A line of one point would not be visible.
        options = {"label": self.name, "marker": "o" if len(curve) == 1 else None} | kwargs
        (self.line_,) = self.ax_.plot(np.arange(1, len(curve) + 1), curve, **options)
        if (curve > 0).all() or self.baseline:
            self.ax_.set_yscale("log")
        self.ax_.set(xlabel="iteration", ylabel=f"loss above {self.baseline:.6g}" if self.baseline else "loss")
        if self.name:
            self.ax_.legend()
        return self


def one_axes(ax: Any) -> Any:
    """Return `ax`, or new axes for None. Raise a ValueError for several axes."""
    if np.size(ax) != 1:
        raise ValueError(f"The 'ax' parameter got {np.size(ax)} axes; it must be one, or two with residuals=True.")
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
