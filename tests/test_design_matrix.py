"""The features of rows as a linear operator, against a dense matrix of scikit-learn's features."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.preprocessing import PolynomialFeatures

from torchpoly._backend.device import resolve_device, to_device, to_numpy
from torchpoly._gram import design_matrix
from torchpoly._gram.design_matrix import DesignMatrix
from torchpoly._gram.target_statistics import mean_and_deviation
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet


@pytest.fixture(params=["evaluated", "kept"])
def kept(request):
    return request.param == "kept"


@pytest.fixture(params=[False, True], ids=["terms", "transformed"])
def transform(request, rng):
    return rng.normal(size=(10, 7)) if request.param else None


@pytest.fixture(params=["cpu", "cpu:0"])
def device(request):
    return resolve_device(request.param)


@pytest.fixture(params=[False, True], ids=["all rows", "weights"])
def weights(request, rng):
    return rng.integers(0, 3, 50).astype(float) if request.param else None


@pytest.fixture
def design_and_dense(kept, transform, weights, device, rng, monkeypatch):
    """A matrix that is evaluated in blocks of 7 rows, and the same one as an array."""
    monkeypatch.setattr(design_matrix, "vector_chunk_size", lambda n_columns: 7)
    X = rng.uniform(-1, 1, (50, 2))
    design = DesignMatrix(Basis(Domain.identity(2), IndexSet(2, 3), "power"), X, weights, device, transform)
    dense = PolynomialFeatures(3).fit_transform(X if weights is None else X[weights > 0]).T
    return (design.keep() if kept else design), dense if transform is None else transform.T @ dense


def test_products(design_and_dense, device, rng):
    design, dense = design_and_dense
    assert (design.n_features, len(design)) == dense.shape
    coefficients = rng.normal(size=(len(dense), 3))
    assert_allclose(to_numpy(design.matvec(coefficients)), coefficients.T @ dense, atol=1e-12)
    slopes = rng.normal(size=(3, len(design)))
    assert_allclose(design.rmatvec(to_device(slopes, device)), dense @ slopes.T, atol=1e-12)
    assert_allclose(design.squares(), np.square(dense).sum(axis=0), rtol=1e-12)

    of_rows = rng.uniform(size=(2, len(design)))
    used = of_rows > 0.3
    expected = [(dense * (row * kept)) @ dense.T for row, kept in zip(of_rows, used, strict=True)]
    used = torch.from_numpy(used) if device else used
    assert_allclose(design.gram(to_device(of_rows, device), used), expected, atol=1e-12)


def test_some_of_the_rows(design_and_dense, rng):
    design, dense = design_and_dense
    chosen = rng.permutation(len(design))[:20]
    assert_allclose(to_numpy(design.columns(chosen)), dense[:, chosen], atol=1e-12)
    coefficients = rng.normal(size=(len(dense), 2))
    selected = design.select(chosen)
    assert len(selected) == 20
    assert_allclose(to_numpy(selected.matvec(coefficients)), coefficients.T @ dense[:, chosen], atol=1e-12)


def test_blocks(design_and_dense, weights, device, rng):
    design, dense = design_and_dense
    found = [(rows, to_numpy(block).copy()) for rows, block in design.iter_blocks(8)]
    assert max(block.shape[1] for _, block in found) <= 8
    for rows, block in found:
        assert_allclose(block, dense[:, rows], atol=1e-12)
    assert sum(block.shape[1] for _, block in found) == dense.shape[1]

    Y = rng.normal(size=(50, 2))
    targets = mean_and_deviation(Y)
    used = np.ones(50) if weights is None else weights
    below = ((Y - Y.mean(axis=0)) / Y.std(axis=0))[used > 0].T
    weighted = [to_numpy(block).copy() for block in design.weighted_blocks(Y, targets, 8)]
    assert_allclose(np.hstack(weighted), np.sqrt(used[used > 0]) * np.vstack([dense, below]), atol=1e-12)


def test_terms_that_have_been_evaluated(transform, rng):
    X = rng.uniform(-1, 1, (50, 2))
    design = DesignMatrix(Basis(Domain.identity(2), IndexSet(2, 3), "power"), X, transform=transform)
    terms = PolynomialFeatures(3).fit_transform(X).T
    assert_allclose(design.keep(terms).kept, design.keep().kept, atol=1e-12)
