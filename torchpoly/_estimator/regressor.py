"""The estimator: polynomial regression with the interface of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.array_api import check_namespace, like_input, namespace_of, to_host_array
from torchpoly._backend.device import device_or_cpu, resolve_device_with_warning
from torchpoly._backend.rows import Floats, count_rows
from torchpoly._backend.sklearn_compat import fit_context, has_callbacks
from torchpoly._backend.torch_state import default_torch_state, overflow_as_value_error, rollback_on_error
from torchpoly._backend.validation import check_not_class, check_numbers, check_points, check_rows, check_weights
from torchpoly._dask.collections import is_collection
from torchpoly._estimator.building import build_from_rows
from torchpoly._estimator.callbacks import FitTasks
from torchpoly._estimator.dask_support import fit_collections, predict_collection, score_collections
from torchpoly._estimator.leave_one_out import LeaveOneOutGrid, check_leave_one_out, uses_leave_one_out
from torchpoly._estimator.memory import check_memory
from torchpoly._estimator.monomials import Monomials
from torchpoly._estimator.overfitting import warn_if_overfitting
from torchpoly._estimator.partial_fit import PartialFit
from torchpoly._estimator.standard_errors import StandardErrors
from torchpoly._gram.reading import TrainingRows, count_chunks
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.fitted import FittedPolynomial
from torchpoly._train.optimizers import OptimizerSpec, resolve_optimizer

if TYPE_CHECKING:
    from torchpoly._polynomial.module import PolynomialModule


class TorchPolynomialRegressor(StandardErrors, Monomials, PartialFit):
    """Polynomial regression, trained by any torch optimizer.

    The terms are all products of powers of the columns of X up to a total degree. Any loss can be
    minimized, with an optional L2 penalty. The features are products of Chebyshev polynomials of the
    scaled columns. Training runs in coordinates that are orthonormal under the data [1]_. So every
    optimizer converges at its default learning rate, whatever the units of X and y are. For least squares, the
    estimator reads the rows once, one chunk at a time, and keeps the Gram matrix of features and targets.
    Training then costs the same for any number of rows.

    Parameters
    ----------
    degree : int or "loo", default=3
        Highest total degree of the terms; 0 fits a constant. ``"loo"`` means the degree of the least
        leave-one-out error. It tries the degrees from 1 to 15 that have at most 1,500 terms.

    optimizer : str, class or functools.partial, default="lbfgs"
        An optimizer of :mod:`torch.optim` that takes dense tensors: its name in any case
        (``"adam"``), the class, or a partial that sets further options
        (``partial(torch.optim.SGD, momentum=0.9)``). Other subclasses of
        :class:`torch.optim.Optimizer` work too. Weight decay is off unless set: see `alpha`.

    lr : float, default=None
        Learning rate. A number stays constant during training. ``None`` means a default that reaches the
        optimum in the orthonormal basis: 0.03 for Muon; 0.1 for Adam, Adamax, AdamW, NAdam,
        RAdam, RMSprop and Rprop; 0.2 for Adafactor; 3 for Adadelta; 1 for Adagrad and L-BFGS; 0.5
        divided by the largest curvature for SGD and ASGD. Except for L-BFGS, this default falls as
        ``(1 - i / n_iter)**4`` in iteration i. Optimizers that are not in :mod:`torch.optim` keep
        their own default.

    n_iter : int, default=1000
        Greatest number of iterations. With `batch_size`, it is the greatest number of passes over the rows.

    tol : float, default=1e-8
        Training stops when no entry of the gradient exceeds this number. The gradient is that in the
        coordinates of training, where y has a spread of 1. ``None`` runs all `n_iter` iterations.

    loss : str or callable, default="squared_error"
        What is minimized, on average over the samples:

        - ``"squared_error"``: the conditional mean;
        - ``"absolute_error"``: the conditional median, which outliers of y hardly change;
        - ``"huber"``: squared for residuals up to `epsilon` times a scale, absolute for larger ones. The
          scale is estimated together with the coefficients, as in
          :class:`sklearn.linear_model.HuberRegressor`. Use it for a conditional mean in the presence of
          outliers of y;
        - ``"quantile"``: the pinball loss, whose minimum is the conditional `quantile`;
        - a callable ``(y_pred, y_true) -> tensor``: a function of torch, or a loss of
          :mod:`torch.nn`. It gets float64 tensors of y's shape, in the units of y, and returns a
          value for each sample, or one for all. If the samples have different weights, it has to return a
          value for each sample, as ``torch.nn.SmoothL1Loss(reduction="none")`` does.

        With the default optimizer, the absolute error and quantiles end at the optimum that linear
        programming finds, with a proof: see ``dual_gap_``. With a penalty, and for the Huber loss,
        training ends within about 1e-6 of the least value, and mostly far closer. If a callable has kinks,
        ``optimizer="adam"`` comes closer to the minimum than L-BFGS.

    epsilon : float, default=1.35
        At least 1. The Huber loss is absolute for residuals above `epsilon` times the scale.

    quantile : float, default=0.5
        Between 0 and 1, for ``loss="quantile"``.

    alpha : float or "loo", default=0.0
        Weight of the L2 penalty. ``"loo"`` means the value of the least leave-one-out error among 0 and 20
        values from 3e-9 to 10, two in each decade. For tables of several columns,
        ``degree="loo", alpha="loo", extrapolation="constant"`` is a good start. For curves of one column
        and for exact data, so is 0. It adds ``alpha * sum(k**3 * c**2)`` to each target's mean loss,
        with the coefficients c of the products of Chebyshev polynomials of the scaled columns and
        the total degree k of each. k is 0 for the constant, which has no penalty. So the fit prefers terms
        of a low degree: if several terms explain the rows equally well, the higher ones get small
        coefficients. With ``basis="monomial"``, the penalty is ``alpha * sum(c**2)`` of the raw powers
        without the constant. Loss and coefficients are in units of the spread of y. The spread is the
        standard deviation for the squared error, and the median distance from the median for the other
        named losses. For callables and for ``"monomial"``, the units are those of y.
        ``Ridge(alpha=a)`` on these features, divided by ``k**1.5``, has ``a = alpha * n_samples``.

    basis : {"orthonormal", "chebyshev", "monomial"}, default="orthonormal"
        Coordinates of training. ``"chebyshev"`` means products of Chebyshev polynomials of the columns,
        which are scaled to [-1, 1]. ``"orthonormal"`` means combinations of these products that are
        orthonormal under the data. ``"monomial"`` means powers of X without any scaling of X and y.
        Training then starts at coefficients of 0. With ``optimizer="sgd"`` and ``tol=None``, this is the
        loop of the textbooks. It converges slowly, or not at all if `lr` is too large.

    interaction_only : bool, default=False
        Whether only products of distinct columns are terms.

    batch_size : int, default=None
        Number of rows in a mini-batch, at most that of all rows. Each step of training uses one
        mini-batch. ``None`` uses all rows in each step, which mostly reaches the optimum sooner. L-BFGS
        does not work with mini-batches.

    extrapolation : {"continue", "constant", "linear", "error"}, default="continue"
        What :meth:`predict` and ``module_`` do outside the box of the training data, which is the product
        of the ranges of the columns of X. They evaluate the polynomial there (``"continue"``), return its
        value at the nearest point of the box (``"constant"``), follow the tangent from that point
        (``"linear"``), or raise a ValueError (``"error"``). It may be set after fit. If columns differ by
        less than a thousandth of their range, their difference has a range of its own. ``"constant"`` and
        ``"linear"`` then keep the difference inside its range, ``"error"`` raises for rows outside, and
        ``"continue"`` warns of rows far outside.

    device : str or torch.device, default="cpu"
        The device for features and the Gram matrix, such as ``"cuda"``, ``"cuda:1"`` or ``"xpu"``.
        ``"auto"`` means a CUDA or XPU device if there is one, else the CPU. A device without double
        precision, such as ``"mps"``, is not used: :meth:`fit` warns and runs on the CPU. If all rows fit
        in one chunk, the fit runs on the CPU too. Predictions run on the CPU if the device is absent.

    random_state : int or RandomState instance, default=None
        Seed for shuffling the rows of mini-batches. ``None`` means the same order in every fit.

    warm_start : bool, default=False
        Whether :meth:`fit` starts from the polynomial of the last fit. If degree, basis or X have
        changed, it starts from the polynomial that is nearest to it on the rows. The state of the
        optimizer is not kept.

    verbose : int or bool, default=0
        If v is not 0, training prints iteration and loss every v iterations.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        Coefficients of the columns of X. It exists only if ``degree_`` is 0 or 1, as many tools take it for one
        number for each column.

    term_coef_ : ndarray of shape (n_terms,) or (n_targets, n_terms)
        Coefficients of the monomials of X without the constant, in the order of ``powers_``.

    intercept_ : float or ndarray of shape (n_targets,)
        Constant term of the polynomial in X.

    term_coef_std_ : ndarray of the shape of ``term_coef_``
        Standard errors of the coefficients; NaN for terms that the rows do not determine. Like the four attributes
        below, it exists for ``loss="squared_error"``, if there are more rows than independent terms.

    intercept_std_ : float or ndarray of shape (n_targets,)
        Standard error of ``intercept_``.

    residual_std_ : float or ndarray of shape (n_targets,)
        Residual standard deviation.

    dof_ : float
        Residual degrees of freedom.

    feature_importances_ : ndarray of shape (n_features,)
        Share of the variance of the predictions that no polynomial without the column can give back.

    powers_ : ndarray of shape (n_terms, n_features)
        Exponent of each column of X in each term.

    term_names_ : ndarray of shape (n_terms,)
        Names of the terms, such as ``"x0^2 x1"``.

    n_iter_ : int
        Number of iterations. With L-BFGS and a named loss other than the squared error, targets train one
        after another, and this is the greatest number of a target.

    loss_curve_ : ndarray of shape (`n_iter_`,)
        Mean loss after each iteration, in the units of y. The last one is that of the fitted model.

    scale_ : float or ndarray of shape (n_targets,)
        Scale of the residuals in the units of y, for ``loss="huber"`` only. Outliers are rows with
        residuals above ``epsilon * scale_``.

    dual_gap_ : float or ndarray of shape (n_targets,)
        Upper bound of the difference between the mean loss of the fit and the least possible one,
        in the units of y, for ``loss="absolute_error"`` and ``"quantile"`` with ``alpha=0`` only. It
        comes from the dual of the linear program. With the default optimizer, training reaches the
        optimum, and the bound is a rounding error. With other optimizers and early stops it is larger.

    rank_ : int
        Number of independent terms, the constant included.

    degree_ : int
        The degree of the fit: `degree`, or the chosen one.

    alpha_ : float
        The weight of the penalty of the fit: `alpha`, or the chosen one.

    loo_path_ : dict of ndarray
        The choice by leave-one-out, if `degree` or `alpha` is ``"loo"``. ``"degree"`` and ``"alpha"``
        have the values that were tried. ``"mean_squared_error"`` has the mean squared errors of the rows
        that were left out, in the units of y squared, of shape (n_degrees, n_alphas) or
        (n_degrees, n_alphas, n_targets). They are NaN where they cannot be computed.

    module_ : torch.nn.Module
        The fitted polynomial, from X to predictions, differentiable in X.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if X has string names.

    See Also
    --------
    PolynomialGridSearchCV : Search over degrees, penalties and all other parameters.
    PolynomialFitDisplay : A plot of the fit.
    DiagnosticsDisplay : Plots of residuals and leverages.
    torchpoly.inspection.summary : Coefficients with their standard errors.
    LossCurveDisplay : A plot of the training.

    Notes
    -----
    Columns of X that do not vary get no terms. A column of m distinct values, m at most 5, gets only
    powers below m. With ``basis="monomial"``, it gets all powers. With ``alpha=0``, a column is left out
    if other columns determine it up to rounding, as the parts of a total do. If columns nearly coincide,
    the basis is built on their principal axes. The polynomials are the same, because linear maps of the
    variables do not change the total degree. With a penalty, or with `interaction_only`, principal axes
    are not used, because they would change the result. Then interactions of columns that differ by less
    than about 1e-6 of their range are not resolved. If the Gram matrix is ill-conditioned all the same, as
    for heavy-tailed columns at a high degree, the rows are read up to three additional times. If terms are
    dependent, for example because there are more terms than rows, the coefficients c have the smallest
    ``sum(k**3 * c**2)``. Fits with ``alpha > 0`` converge to this one as `alpha` approaches 0.

    A leave-one-out error is the difference of a row from the prediction of a fit to all other rows. One
    pass over the rows gives these errors of all degrees and penalties, without refits: in coordinates in
    which the Gram matrix is the identity and the penalty is diagonal [3]_, the error of a row is
    ``e / (1 - h)``, with its residual e and its leverage h. The domain of the columns is that of all rows.
    The degree and the penalty of the least mean squared error, weighted by `sample_weight`, are chosen. All
    targets get the same ones: the mean squared errors are divided by the variances of the targets and
    summed. This works with ``loss="squared_error"``, without `batch_size` and :meth:`partial_fit`, and with
    any basis but ``"monomial"``. For Dask collections, the greatest degree is that of columns of many values.

    Losses other than the squared error train on the rows. Features of up to 256 MiB are kept. More
    features are evaluated in each iteration, chunk by chunk. Training starts at the least squares or at the
    mean or median of y, whichever has the lower loss. With a callable, ``y_pred = 0`` is a third
    possibility. L-BFGS minimizes ``sqrt(r**2 + w**2)`` instead of ``abs(r)``, for residuals r. The width w
    starts at the median of ``abs(r)`` and is halved until it is 3e-5 of that. Each time, the coordinates
    are orthonormal under the data and the curvature of the loss. Without a penalty, a few steps of the
    simplex method [2]_ lead from there to the optimum: a polynomial through as many rows as there are
    independent terms. There may be several optima, as there are several medians of 0, 1, 2 and 10. Then the
    result is one of them.

    With L-BFGS, the best constant is another possible start for a callable whose second derivatives change,
    such as one with a logarithmic link. Training then runs in coordinates that are orthonormal under the
    curvature of the callable.

    From scikit-learn 1.9 on, ``set_callbacks`` takes its callbacks.

    The same data give the same bits. A process that was forked after torch had used its threads would hang
    at torch's next use of threads. In such a process, fits use one thread.

    References
    ----------
    .. [1] G. E. Forsythe, "Generation and use of orthogonal polynomials for data-fitting with a
       digital computer", J. SIAM 5 (1957), 74-88.
    .. [2] I. Barrodale and F. D. K. Roberts, "An improved algorithm for discrete l1 linear
       approximation", SIAM J. Numer. Anal. 10 (1973), 839-848.
    .. [3] A. Demmler and C. Reinsch, "Oscillation matrices with spline smoothing", Numer. Math. 24
       (1975), 375-382.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import TorchPolynomialRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (200, 2))
    >>> y = 1 + 2 * X[:, 0] - 3 * X[:, 0] * X[:, 1] ** 2
    >>> TorchPolynomialRegressor(degree=3).fit(X, y).equation()
    'y = 1 + 2*x0 - 3*x0*x1**2'
    >>> model = TorchPolynomialRegressor(degree=3, optimizer="adam").fit(X, y)
    >>> round(model.score(X, y), 9)
    1.0

    Leave-one-out chooses the degree and the penalty:

    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = TorchPolynomialRegressor(degree="loo", alpha="loo", extrapolation="constant").fit(X, y)
    >>> model.degree_, round(model.alpha_, 3)
    (4, 0.032)
    """

    # Pickle stores the public name of the class, so that its file can move.
    __module__ = "torchpoly"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        # A constant and most quantiles are far from the conditional mean, so their R2 is low.
        tags.regressor_tags.poor_score = bool(np.isscalar(self.degree) and self.degree == 0) or (
            self.loss == "quantile" and self.quantile != 0.5
        )
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the polynomial.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers. float32 stays float32, everything else becomes float64. Memory maps are read
            chunk by chunk. Tensors are converted to arrays. Partitions of Dask arrays and dataframes are
            reduced on their workers. This works for the squared error without `batch_size` and
            `warm_start`.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Finite numbers. Each target trains as if it were alone.

        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight k counts as k copies of the row. A row of weight 0 is ignored.

        Returns
        -------
        TorchPolynomialRegressor
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter or the data are not as described, if there are fewer than three rows for ``"loo"``,
            if the terms do not fit in memory, if the result of a callable `loss` is not a loss, or if training
            diverges. The estimator is then unchanged, as after any other exception.
        RuntimeError
            If the device fails, or the Dask scheduler does not exist any more.

        Warns
        -----
        ConvergenceWarning
            If `n_iter` iterations end before `tol` is met. For absolute errors and quantiles, the warning
            quotes ``dual_gap_``.
        LinAlgWarning
            If columns differ by less than 1e-7 of their range, or if terms are dependent only because of a
            few extreme values in a column. The warning names the columns.
        OverfittingWarning
            If ``alpha=0``, X has more than one column that varies, and there are fewer than two distinct rows
            for each term. The warning has both numbers.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 4.0, 19.0]
        >>> TorchPolynomialRegressor(degree=2).fit(X, y, sample_weight=[1, 1, 1, 0]).equation()
        'y = 1*x0**2'
        """
        self._validate_if_skipped()
        with default_torch_state(), rollback_on_error(self):
            fit = self._fit_collections if is_collection(X, y, sample_weight) else self._fit
            fit(X, y, sample_weight)
        return self

    # scikit-learn's context ends the callbacks, which may raise. So the rollback is around the context.
    _fit_collections = fit_context(prefer_skip_nested_validation=True)(fit_collections)

    @fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> None:
        as_given = X, y, sample_weight
        optimizer = resolve_optimizer(self.optimizer, self.lr)
        device = resolve_device_with_warning(self._device_for(X), stacklevel=4)
        check_not_class(self.loss)
        X, y = check_rows(self, X, y)
        weights, unit = check_weights(sample_weight, X)
        n_rows = count_rows(X, weights)
        spec, grid = self._spec(), None
        if uses_leave_one_out(spec):
            check_leave_one_out(spec, self.batch_size, n_rows)
        self._check_batch_size(n_rows, optimizer)
        box = Box.of(X, weights)
        if uses_leave_one_out(spec):
            grid = LeaveOneOutGrid.of(spec, spec.with_values(1, 0.0).indices(len(box), box.values))
            spec = grid.spec
        indices = spec.indices(len(box), box.values)
        check_memory(indices, n_rows)
        n_targets = 1 if y.ndim == 1 else y.shape[1]
        warm = self._warm(X.shape[1], n_targets)
        tasks = None
        if has_callbacks(self):
            n_chunks = count_chunks(indices, len(X), n_targets)
            tasks = FitTasks(self, *as_given, n_chunks)

        problem = build_from_rows(
            spec,
            X,
            y,
            weights,
            box,
            device=device,
            batch_size=self.batch_size,
            in_stages=optimizer.is_lbfgs,
            warm=warm,
            on_chunk=None if tasks is None else tasks.read_chunk,
            grid=grid,
        )

        self._train(problem, optimizer, n_rows, y.ndim == 1, tasks, weight_unit=unit)
        self._namespace = namespace_of(as_given[0])
        data = TrainingRows.unscaled(X, y, weights, None)
        warn_if_overfitting(self, data.count_points, stacklevel=4)

    def _warm(self, n_features: int, n_targets: int) -> FittedPolynomial | None:
        """Return the polynomial for a warm start or None, or raise a ValueError if the data have another shape."""
        polynomial = getattr(self, "_polynomial", None) if self.warm_start else None
        if polynomial is not None:
            so_far = len(polynomial.low), polynomial.coefficients.shape[1]
            if so_far != (n_features, n_targets):
                raise ValueError(
                    f"The 'warm_start' parameter got {self.warm_start}, but the fit to go on from had {so_far[0]} "
                    f"features and {so_far[1]} targets, and X and y have {n_features} and {n_targets}. Set "
                    "warm_start=False to start anew."
                )
        return polynomial

    def _check_batch_size(self, n_rows: int, optimizer: OptimizerSpec) -> None:
        """Raise a ValueError if mini-batches are larger than the data, or if the optimizer is L-BFGS."""
        if self.batch_size is None:
            return
        if self.batch_size > n_rows:
            raise ValueError(
                f"The 'batch_size' parameter got {self.batch_size}, more than the {n_rows} rows of positive weight. "
                "Use a smaller one, or None for all rows at once."
            )
        if optimizer.is_lbfgs:
            raise ValueError(
                f"The 'batch_size' parameter got {self.batch_size} with an L-BFGS optimizer, which takes the "
                "difference between batches for the curvature of the loss. Use optimizer='adam', or batch_size=None."
            )

    @overload
    def predict(self, X: NDArray[np.float32], return_std: Literal[False] = False) -> NDArray[np.float32]: ...
    @overload
    def predict(self, X: ArrayLike, return_std: Literal[False] = False) -> NDArray[np.float64]: ...
    @overload
    def predict(self, X: ArrayLike, return_std: bool) -> Any: ...
    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Evaluate the polynomial, and the standard error of the mean if asked.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers. `extrapolation` defines the predictions outside the range of the training data.

        return_std : bool, default=False
            Whether to return the standard error of each prediction too. It is the uncertainty of the **mean** of y
            at x, not of a new reading: :class:`sklearn.linear_model.BayesianRidge` adds the noise, and this does not.
            :func:`torchpoly.inspection.predict_interval` gives intervals of both kinds.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Predictions: float32 if X is float32, else float64. Under scikit-learn's
            ``config_context(array_api_dispatch=True)``, predictions have the type of X. For a tensor, they
            are a tensor on X's device. For a Dask collection, they are a lazy collection with the chunks of
            X: an array for an array, a series or dataframe with X's index for a dataframe.

        std : ndarray of the same shape
            Standard errors, if `return_std` is True, of the type of the predictions.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X has other columns than in fit or values that are not finite numbers; with
            ``extrapolation="error"``, if rows are outside the range of the training data; with
            ``return_std=True``, if `loss` is not the squared error or rows are not more than terms.

        Warns
        -----
        UserWarning
            With ``extrapolation="continue"``, if the difference of columns that nearly coincide is far
            outside its range in the training data, although each column is inside its own range. The
            warning names the columns. With ``return_std=True``, if training stopped before the optimum.

        Notes
        -----
        With n rows, the standard error is ``s * sqrt(h)``, with ``residual_std_`` s and the leverage h of x. With a
        penalty, it is the standard deviation of the posterior distribution whose mean is the fit, and it does not
        contain the bias of the penalty.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> model = TorchPolynomialRegressor(degree=2).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0])
        >>> model.predict([[1.5], [3.0]]).round(6)
        array([2.25, 9.  ])
        >>> model.set_params(extrapolation="linear").predict([[1.5], [3.0]]).round(6)
        array([2.25, 8.  ])
        """
        check_is_fitted(self)
        if is_collection(X):
            return predict_collection(self, X, return_std)
        check_namespace(X, self._namespace, "TorchPolynomialRegressor.predict")
        with overflow_as_value_error():
            rows = check_points(self, X)
        names = getattr(self, "feature_names_in_", None)
        device = device_or_cpu(self._device_for(X))
        # One state of the estimator, as another thread may fit meanwhile.
        state = self.__dict__.copy()
        extrapolation = self._valid_extrapolation()
        mean = state["_polynomial"].predict(rows, device, extrapolation, names)
        found = [mean, self._mean_errors(state, rows, device, extrapolation)] if return_std else [mean]
        results = [like_input(values[:, 0] if state["_single_target"] else values, X) for values in found]
        return tuple(results) if return_std else results[0]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the coefficient of determination of the predictions, averaged over targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data that :meth:`predict` accepts.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            The targets at X.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            At most 1. A model that always predicts the mean of y has 0.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            For the reasons of :meth:`predict`; if a weight is negative, or all are 0.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> X, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0]
        >>> round(TorchPolynomialRegressor(degree=1).fit(X, y).score(X, y), 4)
        0.9231
        """
        if is_collection(X, y, sample_weight):
            return score_collections(self, X, y, sample_weight)
        check_numbers(y, "y")
        y, predictions = to_host_array(y), to_host_array(self.predict(X))
        weights, _ = check_weights(sample_weight, predictions)
        unit = _unit_without_overflow(y)
        if unit != 1.0:
            y, predictions = np.asarray(y, dtype=np.float64) / unit, predictions / unit
        return r2_score(y, predictions, sample_weight=weights)

    @property
    def loss_curve_(self) -> Floats:
        """Mean loss after each iteration, in the units of y. The last one is that of the fitted model.

        It has the weights of the rows, is averaged over targets, and does not include the penalty. For the
        squared error, its units are those of y squared.
        """
        check_is_fitted(self)
        return np.array(self._losses)

    @property
    def module_(self) -> PolynomialModule:
        """The fitted polynomial as a :class:`torch.nn.Module` from X to predictions, differentiable in X.

        Each access makes a new module, which shares no tensor with others. It can be exported by
        :func:`torch.export.export` and ``torch.onnx.export(dynamo=True)``. The fitted attributes contain no
        tensors.
        """
        check_is_fitted(self)
        try:
            from torchpoly._polynomial.module import PolynomialModule
        except (ImportError, OSError) as error:
            raise AttributeError(f"'module_' is a torch.nn.Module, and torch cannot be imported: {error}") from error
        return PolynomialModule(
            self._polynomial, squeeze=self._single_target, extrapolation=self._valid_extrapolation()
        )


def _unit_without_overflow(y: Any) -> float:
    """Return 1, or the greatest absolute value of y if squares of it would overflow or underflow."""
    with np.errstate(over="ignore", under="ignore"):
        greatest = float(np.abs(np.asarray(y, dtype=np.float64)).max(initial=0.0))
    return greatest if np.isfinite(greatest) and not (greatest == 0 or 1e-100 < greatest < 1e100) else 1.0
