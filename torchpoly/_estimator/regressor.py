"""scikit-learn's face of the engine."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from torchpoly._backend.array_api import check_namespace, like_input, namespace_of, to_host_array
from torchpoly._backend.device import DEVICE, OPTIMIZER, device_or_cpu, resolve_device
from torchpoly._backend.rows import Floats, count_rows
from torchpoly._backend.sklearn_compat import Interval, StrOptions, fit_context, has_callbacks
from torchpoly._backend.torch_state import default_torch_state, overflow_as_value_error, rollback_on_error
from torchpoly._backend.validation import DTYPES, check_not_class, check_rows, check_weights
from torchpoly._dask.collections import is_collection
from torchpoly._estimator.building import build_from_rows
from torchpoly._estimator.callbacks import FitTasks
from torchpoly._estimator.dask_support import fit_collections, predict_collection, score_collections
from torchpoly._estimator.memory import check_memory
from torchpoly._estimator.monomials import Monomials
from torchpoly._estimator.partial_fit import PartialFit
from torchpoly._gram.reading import count_chunks
from torchpoly._loss.custom import LossFunction
from torchpoly._loss.named import LOSSES
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.fitted import FittedPolynomial
from torchpoly._train.optimizers import OptimizerLike, OptimizerSpec, resolve_optimizer

if TYPE_CHECKING:
    import torch

    from torchpoly._polynomial.module import PolynomialModule


class TorchPolynomialRegressor(Monomials, PartialFit):
    """Polynomial regression, trained by any torch optimizer.

    Fits all products of powers of the columns of X up to a total degree, under any loss, with an
    optional L2 penalty. Features are products of Chebyshev polynomials of the scaled columns, and
    training runs in coordinates that are orthonormal under the data [1]_, so that every optimizer
    converges at its default learning rate, whatever the units of X and y. For least squares it
    reads the rows once, one chunk at a time, and keeps the Gram matrix of features and targets;
    training then costs the same for any number of rows.

    Parameters
    ----------
    degree : int, default=3
        Greatest total degree of the terms; 0 fits a constant.

    optimizer : str, class or functools.partial, default="lbfgs"
        An optimizer of :mod:`torch.optim` that takes dense tensors: its name in any case
        (``"adam"``), the class, or a partial that sets further options
        (``partial(torch.optim.SGD, momentum=0.9)``). Other subclasses of
        :class:`torch.optim.Optimizer` work too. Weight decay is off unless set: see `alpha`.

    lr : float, default=None
        Learning rate; a given one stays constant. ``None`` takes a default, which in the
        orthonormal basis reaches the optimum: 0.03 for Muon; 0.1 for Adam, Adamax, AdamW, NAdam,
        RAdam, RMSprop and Rprop; 0.2 for Adafactor; 3 for Adadelta; 1 for Adagrad and L-BFGS; 0.5
        divided by the largest curvature for SGD and ASGD. Except for L-BFGS, this default falls as
        ``(1 - i / n_iter)**4`` in iteration i. Optimizers that are not in :mod:`torch.optim` keep
        their own default.

    n_iter : int, default=1000
        Greatest number of iterations; with `batch_size`, of passes over the rows.

    tol : float, default=1e-8
        Training stops where no entry of the gradient exceeds this, in the coordinates of
        training, in which y has a spread of 1. ``None`` runs all `n_iter` iterations.

    loss : str or callable, default="squared_error"
        What is minimized, on average over the samples:

        - ``"squared_error"``: the conditional mean;
        - ``"absolute_error"``: the conditional median, which outliers of y do not move;
        - ``"huber"``: squared for residuals up to `epsilon` times a scale, absolute beyond. The
          scale is estimated jointly, as :class:`sklearn.linear_model.HuberRegressor` does. For
          outliers of y where the rest is a conditional mean;
        - ``"quantile"``: the pinball loss, whose minimum is the conditional `quantile`;
        - a callable ``(y_pred, y_true) -> tensor``: a function of torch, or a loss of
          :mod:`torch.nn`. It gets float64 tensors of y's shape, in the units of y, and returns a
          value for each sample, or one for all. Samples of different weight need the former:
          ``torch.nn.SmoothL1Loss(reduction="none")``.

        With the default optimizer, the absolute error and quantiles end at the optimum that linear
        programming finds, with a proof: see ``dual_gap_``. With a penalty, and for the Huber loss,
        they end within about 1e-6 of the least value, mostly far closer. Where a callable has kinks,
        ``optimizer="adam"`` comes closer than L-BFGS.

    epsilon : float, default=1.35
        At least 1: from how many scales on the Huber loss takes a residual for an outlier's.

    quantile : float, default=0.5
        Between 0 and 1, for ``loss="quantile"``.

    alpha : float, default=0.0
        Weight of the L2 penalty. It adds ``alpha * sum(k**3 * c**2)`` to each target's mean loss,
        with the coefficients c of the products of Chebyshev polynomials of the scaled columns and
        the total degree k of each, 0 for the constant. So the fit prefers terms of a low degree:
        where several explain the rows equally well, the higher ones get small coefficients. With
        ``basis="monomial"`` it is ``alpha * sum(c**2)`` of the raw powers but the constant. Loss
        and coefficients are in units of the spread of y: its standard deviation for the squared
        error, else the median distance from its median. For callables and for ``"monomial"`` they
        are in units of y.
        ``Ridge(alpha=a)`` on these features, divided by ``k**1.5``, has ``a = alpha * n_samples``.

    basis : {"orthonormal", "chebyshev", "monomial"}, default="orthonormal"
        Coordinates that training runs in. ``"chebyshev"`` takes products of Chebyshev
        polynomials of the columns, scaled to [-1, 1]. ``"orthonormal"`` takes combinations of
        these that are orthonormal under the data. ``"monomial"`` takes raw powers of raw X,
        with raw y, from coefficients of 0: with ``optimizer="sgd"`` and ``tol=None``, the loop of
        the textbooks, which converges slowly or, if `lr` is too large, not at all.

    interaction_only : bool, default=False
        Whether only products of distinct columns are terms.

    batch_size : int, default=None
        Number of rows in the mini-batches that training steps on, at most all; ``None`` steps on
        all rows at once, which reaches the optimum sooner wherever it fits the time. Not for L-BFGS.

    extrapolation : {"continue", "constant", "linear", "error"}, default="continue"
        What :meth:`predict` and ``module_`` do outside the box of the training data, the ranges of
        the columns of X: evaluate the polynomial there; take its value at the nearest point of
        the box; go on from that point along the tangent; or raise a ValueError. It may be set
        after fit. Where columns differ by less than a thousandth of their range, their difference
        has a range of its own: ``"constant"`` and ``"linear"`` hold it at the edge of that range,
        ``"error"`` refuses rows outside, and ``"continue"`` warns of rows far outside.

    device : str or torch.device, default="cpu"
        Where features and the Gram matrix are computed: ``"cuda"``, ``"cuda:1"``, ``"xpu"``;
        ``"auto"`` takes a CUDA or XPU device where there is one. A device without double precision,
        such as ``"mps"``, is not used: :meth:`fit` warns of it and runs on the CPU. If all rows fit
        in one chunk, they are computed on the CPU too. Predictions run on the CPU where the device
        is absent.

    random_state : int or RandomState instance, default=None
        Shuffles the rows for mini-batches. ``None`` shuffles alike in every fit.

    warm_start : bool, default=False
        Whether :meth:`fit` starts from the polynomial of the last fit, or where degree, basis or X
        have changed, from the one nearest to it on the rows. Optimizers start afresh.

    verbose : int or bool, default=0
        Prints iteration and loss every so many iterations.

    Attributes
    ----------
    coef_ : ndarray of shape (n_terms,) or (n_targets, n_terms)
        Coefficients of the monomials of X, but the constant, in the order of ``powers_``.

    intercept_ : float or ndarray of shape (n_targets,)
        Constant term of the polynomial in X.

    powers_ : ndarray of shape (n_terms, n_features)
        Exponent of each column of X in each term.

    n_iter_ : int
        Number of iterations run; where targets train one after another, as with L-BFGS under the
        named losses but the squared error, the greatest.

    loss_curve_ : ndarray of shape (`n_iter_`,)
        Mean loss after each iteration, in the units of y; the last is that of the fitted model.

    scale_ : float or ndarray of shape (n_targets,)
        Scale of the residuals in the units of y, for ``loss="huber"`` only: outliers are those
        beyond ``epsilon * scale_``.

    dual_gap_ : float or ndarray of shape (n_targets,)
        Upper bound of the difference between the mean loss of the fit and the least possible one,
        in the units of y, for ``loss="absolute_error"`` and ``"quantile"`` with ``alpha=0`` only. It
        comes from the dual of the linear program. With the default optimizer, training reaches the
        optimum and the bound is rounding. With other optimizers and early stops it is larger.

    rank_ : int
        Number of independent terms, the constant included.

    module_ : torch.nn.Module
        The fitted polynomial, from X to predictions, differentiable in X.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, where X has string names.

    See Also
    --------
    PolynomialGridSearchCV : Search over degrees, penalties and all other parameters.
    PolynomialFitDisplay : A picture of the fit.
    LossCurveDisplay : A picture of the training.

    Notes
    -----
    Columns of X that do not vary get no terms. A column of at most 5 distinct values gets only
    powers below their number, but with ``basis="monomial"`` all. With ``alpha=0``, columns that
    others determine to rounding, as a total beside its parts, are left out. Where columns nearly
    coincide, the basis is built on their principal axes: polynomials up to a total degree stay the
    same under linear maps of their variables. With a penalty, or with `interaction_only`, principal
    axes are not used, because they would change the result; then interactions of columns that
    differ by less than about 1e-6 of their range are not resolved. Where the Gram matrix is
    ill-conditioned all the same, as on heavy-tailed columns at a high degree, the rows are read up
    to three additional times. Where terms are dependent, for one because they outnumber the rows,
    the coefficients c have the smallest ``sum(k**3 * c**2)``. Fits with ``alpha > 0`` converge to
    this one as `alpha` approaches 0.

    Losses other than the squared error train on the rows: features of up to 256 MiB are kept,
    more are evaluated anew in each iteration, chunk by chunk. Training starts at the least squares
    or at the mean or median of y, whichever has the smaller loss; with a callable, at
    ``y_pred = 0`` if that has. L-BFGS minimizes ``sqrt(r**2 + w**2)`` in the place of
    ``abs(r)``, for residuals r. The width w starts at the median of ``abs(r)`` and is halved until it
    is 3e-5 of that, each time in coordinates that are orthonormal under the data and the loss's
    curvature.
    Without a penalty, a few steps of the simplex method [2]_ lead from there to the optimum: a
    polynomial through as many rows as there are independent terms. There may be several optima, as
    there are several medians of 0, 1, 2 and 10; then it is one of them.

    With L-BFGS, a callable whose second derivatives change, such as one with a logarithmic link, starts
    at the best constant too, and trains in coordinates of its own curvature.

    From scikit-learn 1.9 on, ``set_callbacks`` takes its callbacks.

    The same data give the same bits. A process forked after torch has used its threads would hang in
    torch's next use of them, as any torch program does; there, fits get by with one thread.

    References
    ----------
    .. [1] G. E. Forsythe, "Generation and use of orthogonal polynomials for data-fitting with a
       digital computer", J. SIAM 5 (1957), 74-88.
    .. [2] I. Barrodale and F. D. K. Roberts, "An improved algorithm for discrete l1 linear
       approximation", SIAM J. Numer. Anal. 10 (1973), 839-848.

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
    """

    # Saved models name their class by its public name, wherever its code stands.
    __module__ = "torchpoly"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "degree": [Interval(Integral, 0, None, closed="left")],
        "optimizer": [str, callable, OPTIMIZER],  # an instance is refused with advice
        "lr": [Interval(Real, 0, np.inf, closed="neither"), None],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, np.inf, closed="left"), None],
        "loss": [StrOptions(set(LOSSES)), callable],
        "epsilon": [Interval(Real, 1.0, np.inf, closed="left")],
        "quantile": [Interval(Real, 0.0, 1.0, closed="neither")],
        "alpha": [Interval(Real, 0, np.inf, closed="left")],
        "basis": [StrOptions({"orthonormal", "chebyshev", "monomial"})],
        "interaction_only": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        # As in sklearn.preprocessing.SplineTransformer.
        "extrapolation": [StrOptions({"continue", "constant", "linear", "error"})],
        "device": [str, DEVICE],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        degree: int = 3,
        *,
        optimizer: OptimizerLike = "lbfgs",
        lr: float | None = None,
        n_iter: int = 1000,
        tol: float | None = 1e-8,
        loss: str | LossFunction = "squared_error",
        epsilon: float = 1.35,
        quantile: float = 0.5,
        alpha: float = 0.0,
        basis: str = "orthonormal",
        interaction_only: bool = False,
        batch_size: int | None = None,
        extrapolation: str = "continue",
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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        # R2 is about the mean: a constant and most quantiles are far from it.
        tags.regressor_tags.poor_score = bool(np.isscalar(self.degree) and self.degree == 0) or (
            self.loss == "quantile" and self.quantile != 0.5
        )
        return tags

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> TorchPolynomialRegressor:
        """Fit the polynomial.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers; float32 stays so, everything else becomes float64. Memory maps are read
            chunk by chunk, tensors are taken as arrays. Partitions of Dask arrays and dataframes
            are reduced on their workers, for the squared error and without `batch_size` and
            `warm_start`.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Finite numbers. Each target trains as if it were alone.

        sample_weight : array-like of shape (n_samples,), default=None
            Weight k is k copies of the row, weight 0 is its absence.

        Returns
        -------
        TorchPolynomialRegressor
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter or the data are not as described, if the terms are more than memory
            holds, if a callable `loss` returns what is no loss, or if training diverges. The
            estimator is then what it was before, as after any other exception.
        RuntimeError
            If the device fails, or the Dask scheduler has gone.

        Warns
        -----
        ConvergenceWarning
            If `n_iter` iterations end before `tol` is met; for absolute errors and quantiles it
            quotes ``dual_gap_``.
        LinAlgWarning
            If columns differ by less than 1e-7 of their range, or if a few extreme values in a column
            hide terms that the other rows tell apart. It names the columns.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 4.0, 19.0]
        >>> TorchPolynomialRegressor(degree=2).fit(X, y, sample_weight=[1, 1, 1, 0]).equation()
        'y = 1*x0**2'
        """
        with default_torch_state(), rollback_on_error(self):
            if is_collection(X, y, sample_weight):
                fit_collections(self, X, y, sample_weight)
            else:
                self._fit(X, y, sample_weight)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> None:
        as_given = X, y, sample_weight
        optimizer = resolve_optimizer(self.optimizer, self.lr)
        device = resolve_device(self._device_for(X))
        check_not_class(self.loss)
        X, y = check_rows(self, X, y)
        weights, unit = check_weights(sample_weight, X)
        n_rows = count_rows(X, weights)
        self._check_batch_size(n_rows, optimizer)
        box = Box.of(X, weights)
        spec = self._spec()
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
        )

        self._train(problem, optimizer, n_rows, y.ndim == 1, tasks, weight_unit=unit)
        self._namespace = namespace_of(as_given[0])

    def _warm(self, n_features: int, n_targets: int) -> FittedPolynomial | None:
        """Return the polynomial to go on from, if there is one, or refuse it for other data."""
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
        """Refuse batches larger than the data, or for an optimizer that compares values of one and the next."""
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

    def predict(self, X: ArrayLike) -> NDArray:
        """Evaluate the polynomial.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers. `extrapolation` says what predictions are outside the range of the
            training data.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            Predictions: float32 where X is float32, else float64. Under scikit-learn's
            ``config_context(array_api_dispatch=True)``, what X is: a tensor on X's device for a tensor.
            For a Dask collection a lazy one, chunked as X: an array for an array, a series or
            dataframe with X's index for a dataframe.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X has other columns than in fit, or is not of finite numbers; with
            ``extrapolation="error"``, if it is outside the range of the training data.

        Warns
        -----
        UserWarning
            With ``extrapolation="continue"``, if rows inside the range of each column are far outside
            the training data in the difference of columns that nearly coincide. It names the columns.

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
            return predict_collection(self, X)
        check_namespace(X, self._namespace, "TorchPolynomialRegressor.predict")
        with overflow_as_value_error():
            rows = validate_data(self, to_host_array(X), dtype=DTYPES, reset=False)
        names = getattr(self, "feature_names_in_", None)
        device = device_or_cpu(self._device_for(X))
        predictions = self._polynomial.predict(rows, device, self._valid_extrapolation(), names)
        return like_input(predictions[:, 0] if self._single_target else predictions, X)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the coefficient of determination of the predictions, averaged over targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What :meth:`predict` takes.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            The targets at X.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            At most 1; 0 for a model that always predicts the mean of y.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            For what :meth:`predict` refuses.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> X, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0]
        >>> round(TorchPolynomialRegressor(degree=1).fit(X, y).score(X, y), 4)
        0.9231
        """
        if is_collection(X, y, sample_weight):
            return score_collections(self, X, y, sample_weight)
        return r2_score(to_host_array(y), to_host_array(self.predict(X)), sample_weight=to_host_array(sample_weight))

    @property
    def loss_curve_(self) -> Floats:
        """Mean loss after each iteration, in the units of y; the last is that of the fitted model.

        It is weighted as the rows, averaged over targets, squared for the squared error, and without
        the penalty.
        """
        check_is_fitted(self)
        return np.array(self._losses)

    @property
    def module_(self) -> PolynomialModule:
        """The fitted polynomial, from X to predictions, differentiable in X.

        A :class:`torch.nn.Module`, built anew at each access, with no tensor shared. It can go through
        :func:`torch.export.export` and ``torch.onnx.export(dynamo=True)``. Fitted state itself holds
        no tensors.
        """
        check_is_fitted(self)
        try:
            from torchpoly._polynomial.module import PolynomialModule
        except ImportError as error:
            raise AttributeError(f"'module_' is a torch.nn.Module, and torch cannot be imported: {error}") from error
        return PolynomialModule(
            self._polynomial, squeeze=self._single_target, extrapolation=self._valid_extrapolation()
        )
