"""The fitted polynomial as a :class:`torch.nn.Module` from X to predictions of y."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from torchpoly._backend.rows import Floats
from torchpoly._polynomial.fitted import FittedPolynomial


class PolynomialModule(nn.Module):
    """A fitted polynomial as a module: its input are rows of X, its output are predictions.

    It has buffers and no parameters. It is differentiable in its input. Buffers and arithmetic are
    float64; ``.to(torch.float32)`` makes both float32.

    Parameters
    ----------
    polynomial : FittedPolynomial
    squeeze : bool
        Whether predictions have shape (n_samples,), not (n_samples, n_targets).
    extrapolation : {"continue", "constant", "linear", "error"}
        The predictions outside the box of the training data. A program exported by ``torch.export``
        cannot raise errors, so for ``"error"`` it predicts NaN.
    """

    center: Tensor
    half_width: Tensor
    axes: Tensor
    shift: Tensor
    coefficients: Tensor
    offset: Tensor
    scale: Tensor

    low: Tensor
    high: Tensor
    limits: Tensor
    slopes: Tensor

    def __init__(self, polynomial: FittedPolynomial, squeeze: bool, extrapolation: str = "continue") -> None:
        super().__init__()
        self._basis = polynomial.basis
        self._squeeze = squeeze
        self._extrapolation = extrapolation
        domain = polynomial.basis.domain
        self._is_limited = extrapolation != "continue" and domain.limits is not None
        buffers = {
            "center": domain.center,
            "half_width": domain.half_width,
            "shift": domain.shift,
            "coefficients": polynomial.coefficients,
            "offset": polynomial.targets.center,
            "scale": polynomial.targets.scale,
        }
        # There is no product with an identity matrix: for one column, ONNX Runtime would merge this factor of 1
        # with other factors in single precision.
        if domain.axes is not None:
            buffers["axes"] = domain.axes
        if extrapolation != "continue":
            buffers |= {"low": polynomial.low, "high": polynomial.high}
        if self._is_limited:
            buffers["limits"] = cast(Floats, domain.limits)
        if extrapolation == "linear":
            buffers["slopes"] = polynomial.slopes
        # torch cannot differentiate through tensors that were created in inference mode.
        with torch.inference_mode(False):
            for name, values in buffers.items():
                self.register_buffer(name, torch.tensor(values, device="cpu"))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions.

        Parameters
        ----------
        x : Tensor of shape (..., n_features)
            With the dtype and device of the module, and any leading dimensions, as modules of torch take them.

        Returns
        -------
        Tensor of shape (...) or (..., n_targets)

        Raises
        ------
        ValueError
            If the last dimension of x is not the number of columns, or if `extrapolation` is ``"error"`` and a
            value is outside the box.
        """
        n_features = len(self._basis.domain.center)
        if x.ndim == 0 or x.shape[-1] != n_features:
            raise ValueError(
                f"x has the shape {tuple(x.shape)}, and its last dimension must be {n_features}, the number of columns "
                "in fit. The other dimensions are free."
            )
        if x.ndim == 2:
            return self._of_rows(x)
        predictions = self._of_rows(x.reshape(-1, n_features))
        return predictions.reshape((*x.shape[:-1], *predictions.shape[1:]))

    def extra_repr(self) -> str:
        """Return what the repr of the module says of the polynomial."""
        targets = "" if self._squeeze else f", n_targets={len(self.offset)}"
        return (
            f"degree={self._basis.indices.degree}, n_features={len(self._basis.domain.center)}{targets}, "
            f"extrapolation={self._extrapolation!r}"
        )

    def _of_rows(self, x: Tensor) -> Tensor:
        """Return the predictions for x of shape (n_rows, n_features)."""
        inside = x if self._extrapolation == "continue" else torch.clamp(x, self.low, self.high)
        unlimited = variables = self._rotated((inside - self.center) / self.half_width) - self.shift
        if self._is_limited:
            variables = torch.clamp(unlimited, -self.limits, self.limits)
        features = cast(Tensor, self._basis.evaluate(variables.T))
        values = self.coefficients.T @ features
        if self._extrapolation == "linear":
            steps = self._rotated((x - inside) / self.half_width)
            if self._is_limited:
                steps = torch.where(torch.isinf(self.limits), steps, 0.0)
            values = values + ((self.slopes @ features) * steps.T[:, None]).sum(0)
        if self._extrapolation == "error":
            outside = (x != inside).any(1)
            if self._is_limited:
                outside = outside | (unlimited != variables).any(1)
            if torch.compiler.is_compiling():
                values = torch.where(outside, torch.nan, values)
            elif outside.any():
                raise ValueError(
                    "x has values outside the range of the training data, and the 'extrapolation' parameter got "
                    "'error'. Allow them by 'constant', 'linear' or 'continue'."
                )
        predictions = values.T * self.scale + self.offset
        return predictions[:, 0] if self._squeeze else predictions

    def _rotated(self, scaled: Tensor) -> Tensor:
        """Return ``scaled @ axes``, or `scaled` for a domain without axes."""
        return scaled if self._basis.domain.axes is None else scaled @ self.axes
