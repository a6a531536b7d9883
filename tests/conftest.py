import os

# scikit-learn's array API checks are skipped without it, and SciPy reads it when it is imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# Workers that each take all cores stand in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def surface(rng):
    """A noisy cubic in three columns of different scales, with two targets."""
    X = rng.normal(size=(300, 3)) * [1.0, 100.0, 0.01] + [0.0, 50.0, 3.0]
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    Y = np.column_stack([Z[:, 0] * Z[:, 1] - 2 + Z[:, 2] ** 3, Z[:, 0] - Z[:, 1] ** 2])
    return X, Y + 0.1 * rng.normal(size=Y.shape)


@pytest.fixture
def penalized_features():
    """The products of Chebyshev polynomials but the constant, divided by their degree to the power 3/2."""

    def features(model, X):
        basis = model._polynomial.basis
        degrees = basis.indices.powers.sum(axis=1)[1:]
        return basis.evaluate(basis.domain.scale(X))[1:].T / degrees**1.5

    return features
