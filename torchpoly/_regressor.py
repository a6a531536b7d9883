"""The place of the estimator in version 0.1.0, whose saved models name it."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Refuse a model of version 0.1.0."""
    if name == "TorchPolynomialRegressor":
        raise ImportError(
            "This model was saved by torchpoly 0.1.0, in a format that later versions do not read. Fit it again, or "
            "load it with torchpoly 0.1.0."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
