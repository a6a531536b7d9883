"""The features and their conversion, against NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev
from sklearn.preprocessing import PolynomialFeatures

from torchpoly._gram.statistics import GramStatistics, residual_products
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet

SHAPES = [(1, 7, False), (2, 4, False), (3, 3, False), (5, 2, False), (4, 4, True), (3, 6, True), (2, 0, False)]


@pytest.mark.parametrize(("n_features", "degree", "interaction_only"), SHAPES)
def test_terms_are_ordered_as_polynomial_features(n_features, degree, interaction_only, rng):
    X = rng.normal(size=(20, n_features))
    reference = PolynomialFeatures(degree, interaction_only=interaction_only)
    expected = reference.fit_transform(X)
    basis = Basis(Domain.identity(n_features), IndexSet(n_features, degree, interaction_only), "power")

    np.testing.assert_array_equal(basis.indices.powers, reference.powers_)
    assert basis.n_terms == expected.shape[1]
    np.testing.assert_allclose(basis.evaluate(basis.domain.scale(X)), expected.T, rtol=1e-13)


@pytest.mark.parametrize(("n_features", "degree", "interaction_only"), SHAPES)
def test_products_of_chebyshev_polynomials(n_features, degree, interaction_only, rng):
    X = rng.uniform(-5, 9, size=(20, n_features))
    basis = Basis(Domain.spanning(Box.of(X, None)), IndexSet(n_features, degree, interaction_only))
    u = (X - (X.max(axis=0) + X.min(axis=0)) / 2) / ((X.max(axis=0) - X.min(axis=0)) / 2)
    expected = [
        np.prod([chebyshev.chebval(u[:, j], np.eye(degree + 1)[power]) for j, power in enumerate(powers)], axis=0)
        for powers in basis.indices.powers
    ]

    variables = basis.domain.scale(X)
    np.testing.assert_allclose(basis.evaluate(variables), expected, atol=1e-12)
    buffer = np.full((basis.n_terms, 20), np.nan)
    np.testing.assert_allclose(basis.evaluate(variables, out=buffer), expected, atol=1e-12)
    tensors = torch.from_numpy(variables)
    np.testing.assert_allclose(basis.evaluate(tensors).numpy(), expected, atol=1e-12)
    out = torch.full((basis.n_terms, 20), torch.nan, dtype=torch.float64)
    np.testing.assert_allclose(basis.evaluate(tensors, out=out).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 60])
@pytest.mark.parametrize(
    ("here", "there"),
    [((-1, 1), (-1, 1)), ((-1, 1), (-4, 2)), ((2.5, 2.501), (0, 10)), ((0, 1), (0.25, 0.75)), ((0, 1), (-1, 0.5))],
)
def test_change_of_domain_is_that_of_numpy(here, there, degree):
    ours, others = (
        Basis(Domain.spanning(Box(*np.array([one]).T, (None,))), IndexSet(1, degree)) for one in (here, there)
    )
    expected = np.zeros((degree + 1, degree + 1))
    for k in range(degree + 1):
        converted = chebyshev.Chebyshev.basis(k, domain=there).convert(domain=here).coef
        expected[: len(converted), k] = converted
    change = ours.change_to(others, [None])
    np.testing.assert_allclose(
        change / np.abs(expected).max(axis=0), expected / np.abs(expected).max(axis=0), atol=1e-14
    )


@pytest.mark.parametrize("values", [[0.0, 1.0, 5.0], [2.0]], ids=["few values", "a constant"])
def test_change_of_domain_holds_on_the_rows(values, rng):
    X = np.column_stack([rng.uniform(-1, 2, 40), rng.choice(values, 40)])
    box = Box.of(X, None)
    ours = Basis.spanning(box, IndexSet(2, 4))
    others = Basis(Domain.spanning(Box.of(np.vstack([X, 9 - X]), None)), IndexSet(2, 4))
    change = ours.change_to(others, box.values)
    at_rows = others.evaluate(others.domain.scale(X))
    np.testing.assert_allclose(change.T @ ours.evaluate(ours.domain.scale(X)), at_rows, atol=1e-13)


def test_count_terms_needs_no_list_of_them():
    assert IndexSet(100, 1000).n_terms > 10**100


def test_domain_leaves_out_rows_of_weight_0():
    X = np.array([[0.0], [1.0], [3.0], [100.0]])
    domain = Domain.spanning(Box.of(X, np.array([1.0, 1.0, 2.0, 0.0])))
    np.testing.assert_allclose(domain.scale(X[:3])[0], [-1, -1 / 3, 1])


def test_ranges_near_the_largest_float_do_not_overflow():
    X = np.array([[-1.7e308], [1.7e308]])
    np.testing.assert_array_equal(Domain.spanning(Box.of(X, None)).scale(X), [[-1.0, 1.0]])


def test_tensors_give_the_statistics_of_arrays(rng):
    """What another device than the CPU goes through."""
    chunks = [rng.normal(size=(6, n_rows)) for n_rows in (50, 30)]
    arrays = GramStatistics.from_chunks(chunks, 4, 80.0)
    tensors = GramStatistics.from_chunks(map(torch.from_numpy, chunks), 4, 80.0)
    stacked = np.hstack(chunks)
    for statistics in (arrays, tensors):
        np.testing.assert_allclose(statistics.features, stacked[:4] @ stacked[:4].T / 80, atol=1e-14)
        np.testing.assert_allclose(statistics.cross, stacked[:4] @ stacked[4:].T / 80, atol=1e-14)
        np.testing.assert_allclose(statistics.target, (stacked[4:] ** 2).mean(axis=1), atol=1e-14)
    few = GramStatistics.from_few_rows(torch.from_numpy(stacked), np.array([0.0, 1.0, 1.0, 8.0]), 80.0)
    np.testing.assert_allclose(few.leading_gram(3), arrays.leading_gram(3), atol=1e-14)
    coefficients = rng.normal(size=(4, 2))
    for ours, theirs in zip(
        residual_products(stacked, coefficients, 80.0),
        residual_products(torch.from_numpy(stacked), coefficients, 80.0),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
