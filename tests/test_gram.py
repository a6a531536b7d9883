"""Whitening, penalties, statistics of rows and targets, beside scipy.linalg, numpy and rows written out."""

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from torchpoly._backend.rows import typical_size, weighted_median
from torchpoly._gram.coordinates import orthonormal_coordinates
from torchpoly._gram.factors import DenseFactor
from torchpoly._gram.statistics import GramStatistics, ridge_path
from torchpoly._gram.target_statistics import mean_and_deviation, median_and_deviation
from torchpoly._gram.whitening import Whitening


@pytest.fixture
def design(rng):
    """Features of 60 rows, the first of which is the constant, and two targets."""
    return np.column_stack([np.ones(60), rng.normal(size=(60, 5))]), rng.normal(size=(60, 2))


def statistics_of(features, targets):
    return GramStatistics.from_chunks([np.vstack([features.T, targets.T])], features.shape[1], len(features))


def test_whitening_is_the_inverse_of_scipys_cholesky_factor(design):
    gram = design[0].T @ design[0] / 60
    whitening = Whitening(gram)
    T = whitening.least_norm(None)
    assert_allclose(T, np.linalg.inv(scipy.linalg.cholesky(gram, lower=True)).T, rtol=1e-12)
    assert_allclose(T.T @ gram @ T, np.eye(6), atol=1e-13)
    # The bound is the condition number in the norm of traces.
    assert np.linalg.cond(gram) <= whitening.condition <= 36 * np.linalg.cond(gram)


def test_whitening_without_null_directions_has_least_norm(design):
    features = np.column_stack([design[0], design[0][:, 1] - 2 * design[0][:, 2], design[0][:, 3]])
    gram = features.T @ features / 60
    weights = np.arange(8.0)
    T = Whitening(gram).least_norm(weights)
    assert T.shape == (8, 6)
    assert_allclose(T.T @ gram @ T, np.eye(6), atol=1e-12)
    null = scipy.linalg.null_space(gram, rcond=1e-12)
    # Least norm: orthogonal to what is 0 on all rows, under the weights.
    assert_allclose(null.T @ (weights[:, None] * T), 0.0, atol=1e-12)
    products = features.T @ design[1] / 60
    y_pred = features @ T @ T.T @ products
    assert_allclose(y_pred, features @ scipy.linalg.lstsq(features, design[1])[0], atol=1e-12)


@pytest.mark.parametrize("alpha", [1e-6, 0.1, 100.0])
def test_penalized_coordinates_beside_solve(alpha, design):
    features, targets = design
    statistics, weights = statistics_of(features, targets), np.array([0.0, 1.0, 1.0, 8.0, 8.0, 27.0])
    coordinates = orthonormal_coordinates(statistics, alpha, weights)
    ours = coordinates @ coordinates.rmatvec(statistics.cross)
    gram = features.T @ features / 60
    assert_allclose(ours, scipy.linalg.solve(gram + alpha * np.diag(weights), features.T @ targets / 60), rtol=1e-9)


def test_ridge_path_beside_solve(design):
    features, targets = design
    weights, alphas = np.array([0.0, 1.0, 1.0, 8.0, 8.0, 27.0]), [0.0, 1e-3, 1.0, 1e3]
    path, conditions = ridge_path(statistics_of(features, targets), alphas, weights)
    gram, cross = features.T @ features / 60, features.T @ targets / 60
    for alpha, coefficients in zip(alphas, np.moveaxis(path, 1, 0), strict=True):
        assert_allclose(coefficients, scipy.linalg.solve(gram + alpha * np.diag(weights), cross), rtol=1e-9, atol=1e-13)
    scales = 1 / np.sqrt(weights[1:])
    centered = np.cov(features[:, 1:].T, bias=True) * np.outer(scales, scales)
    assert_allclose(conditions, [np.linalg.cond(centered + alpha * np.eye(5)) for alpha in alphas], rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1e-3])
def test_more_terms_than_rows_beside_scipy(alpha, rng):
    """With P the weights of the norm, least c'Pc such that Fc = y, or least squares with the penalty."""
    features, targets = np.column_stack([np.ones(8), rng.normal(size=(8, 20))]), rng.normal(size=(8, 2))
    weights = np.r_[0.0, np.arange(1.0, 21.0)]
    factor = DenseFactor(features.T / np.sqrt(8), weights)
    statistics = GramStatistics(factor, features.T @ targets / 8, (targets**2).mean(axis=0), 8.0)
    coordinates = orthonormal_coordinates(statistics, alpha, weights)
    ours = coordinates @ coordinates.rmatvec(statistics.cross)
    if alpha:
        expected = scipy.linalg.solve(features.T @ features / 8 + alpha * np.diag(weights), features.T @ targets / 8)
    else:
        # The stationary point of the Lagrangian.
        system = np.block([[2 * np.diag(weights), features.T], [features, np.zeros((8, 8))]])
        expected = scipy.linalg.solve(system, np.vstack([np.zeros((21, 2)), targets]))[:21]
    assert_allclose(ours, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_weighted_statistics_are_those_of_repeated_rows(offset, rng):
    Y, weights = offset + rng.normal(size=(40, 2)) * [1.0, 1e-3], rng.integers(0, 4, 40)
    repeated = np.repeat(Y, weights, axis=0)
    ours = mean_and_deviation(Y, weights.astype(float))
    assert_allclose(ours.center, repeated.mean(axis=0), rtol=1e-14)
    assert_allclose(ours.scale, repeated.std(axis=0), rtol=1e-9)
    ours, theirs = median_and_deviation(Y, weights.astype(float)), median_and_deviation(repeated)
    assert_allclose([ours.center, ours.scale], [theirs.center, theirs.scale], rtol=1e-9)


@pytest.mark.parametrize("values", [[3.0], [1.0, 2.0], [2.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0, 7.0]])
def test_weighted_median_beside_repeat(values, rng):
    values = np.array(values)
    for weights in [np.ones(len(values)), rng.integers(1, 5, len(values))]:
        repeated = np.repeat(values, weights.astype(int))
        expected = np.quantile(repeated, 0.5, method="inverted_cdf")
        assert weighted_median(values, weights.astype(float)) == expected
        assert weighted_median(values, 1e-3 * weights) == expected
        sizes = np.quantile(np.abs(repeated), 0.5, method="inverted_cdf") or np.abs(repeated).mean()
        assert typical_size(-values, weights.astype(float)) == pytest.approx(sizes)
