"""The fitted polynomial as a :class:`torch.nn.Module` from X to predictions of y."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from torchpoly._backend.rows import Floats
from torchpoly._polynomial.fitted import Extrapolation, FittedPolynomial


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

    def __init__(self, polynomial: FittedPolynomial, squeeze: bool, extrapolation: Extrapolation = "continue") -> None:
        super().__init__()
        self._basis = polynomial.basis
        self._squeeze = squeeze
        self._sum_of_coefficients = float(np.abs(polynomial.coefficients).sum(axis=0).max())
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
            If x is complex or sparse, if its last dimension is not the number of columns, or if `extrapolation` is
            ``"error"`` and a value is outside the box.
        """
        n_features = len(self._basis.domain.center)
        if x.is_complex() or x.layout != torch.strided:
            raise ValueError(f"x has the dtype {x.dtype} and the layout {x.layout}. It must be dense and real.")
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
        if self._extrapolation == "continue":
            # Far outside, infinite terms of both signs would cancel to NaN. So rows are moved to where all terms are
            # finite, and the sign there is that of the infinity.
            distance, bound = _largest(variables), self._bound_of_variables(variables)
            variables = variables * torch.where(distance > bound, bound / distance, 1.0)
        features = cast(Tensor, self._basis.evaluate(variables.T))
        values = self.coefficients.T @ features
        if self._extrapolation == "continue":
            values = values + torch.where(bound < distance.T, _infinity_of_sign(values), 0.0)
        if self._extrapolation == "linear":
            steps = self._rotated((x - inside) / self.half_width)
            if self._is_limited:
                steps = torch.where(torch.isinf(self.limits), steps, 0.0)
            # Infinities of both signs would cancel to NaN. The factor is a power of 2, so it changes no digits.
            values = values + ((self.slopes @ features) * (steps.T[:, None] * 2.0**-30)).sum(0) * 2.0**30
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
        """Return ``scaled @ axes``, or `scaled` for a domain without axes. The result is finite."""
        greatest = _constant(torch.finfo(scaled.dtype).max / (4 * len(self.center)), scaled)
        scaled = torch.clamp(scaled, -greatest, greatest)
        return scaled if self._basis.domain.axes is None else scaled @ self.axes

    def _bound_of_variables(self, variables: Tensor) -> Tensor:
        """Return the absolute value of variables up to which no sum of terms overflows.

        Products of Chebyshev polynomials of total degree k are at most ``T_k(u) = cosh(k arcosh(u))`` there, with the
        largest variable u.
        """
        degree = max(self._basis.indices.highest, 1)
        greatest = torch.finfo(variables.dtype).max / (8 * max(self._sum_of_coefficients, 1.0))
        if self._basis.family == "power":
            return _constant(greatest ** (1 / degree), variables)
        return _constant(math.cosh(math.acosh(max(greatest, 1.0)) / degree), variables)


def _largest(variables: Tensor) -> Tensor:
    """Return the largest absolute value in each row, of shape (n_rows, 1), without a gradient."""
    if variables.shape[1] == 0:
        return variables.new_zeros((len(variables), 1))
    return variables.detach().abs().amax(1, keepdim=True)


def _infinity_of_sign(values: Tensor) -> Tensor:
    """Return infinities with the signs of values, and 0 for 0, without a gradient."""
    return torch.where(values > 0, torch.inf, torch.where(values < 0, -torch.inf, 0.0))


def _constant(value: float, like: Tensor) -> Tensor:
    """Return a number as a tensor, since ONNX programs hold numbers of Python in single precision."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)
