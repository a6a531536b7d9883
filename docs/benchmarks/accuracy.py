"""Correct digits of least squares under stress: torchpoly, NumPy and scikit-learn.

The reference is the least squares solution in 100 decimal digits (mpmath), for the very floating-point
numbers that the contestants get. Digits are those of the predictions at the rows, relative to the spread
of the reference's: ``-log10(max |error| / standard deviation)``. Run with::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/accuracy.py
"""

import warnings
from itertools import combinations_with_replacement

import matplotlib.pyplot as plt
import mpmath
import numpy as np
from side_by_side import environment, picture, table
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures

from torchpoly import TorchPolynomialRegressor

DESIGNS = {
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "Gaussian": lambda rng, shape: rng.normal(size=shape),
    "clustered": lambda rng, shape: rng.integers(0, 12, shape) + 0.01 * rng.normal(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_t(2, shape),
    "far from 0": lambda rng, shape: 1e6 + rng.uniform(-1, 1, shape),
    "nearly collinear": lambda rng, shape: rng.normal(size=(shape[0], 1)) + 1e-5 * rng.normal(size=shape),
}
SHAPES = [(1, 5), (1, 10), (1, 20), (1, 30), (2, 5), (2, 8), (3, 4), (6, 2)]
N_ROWS = 150
COLORS = ["tab:red", "tab:orange", "tab:blue", "0.6"]


def data(design, n_features):
    rng = np.random.default_rng(0)
    X = DESIGNS[design](rng, (N_ROWS, n_features))
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    return X, np.sin(Z.sum(axis=1)) + 0.1 * rng.normal(size=N_ROWS)


def reference(X, y, degree):
    """Return the predictions at the rows by modified Gram-Schmidt, twice, in 100 digits."""
    with mpmath.workdps(100):
        columns = [[mpmath.mpf(float(value)) for value in column] for column in X.T]
        centers = [mpmath.fsum(column) / len(column) for column in columns]
        scales = [max(abs(value - center) for value in column) for column, center in zip(columns, centers, strict=True)]
        scaled = [
            np.array([(value - center) / scale for value in column], dtype=object)
            for column, center, scale in zip(columns, centers, scales, strict=True)
        ]
        one = np.array([mpmath.mpf(1)] * len(y), dtype=object)
        residual = np.array([mpmath.mpf(float(value)) for value in y], dtype=object)
        target, basis = residual.copy(), []
        for total in range(degree + 1):
            for factors in combinations_with_replacement(range(len(columns)), total):
                term = one
                for factor in factors:
                    term = term * scaled[factor]
                for _ in range(2):
                    for direction in basis:
                        term = term - (direction @ term) * direction
                norm = mpmath.sqrt(term @ term)
                if norm > mpmath.mpf(10) ** -60:
                    basis.append(term / norm)
        for direction in basis:
            residual = residual - (direction @ residual) * direction
        return np.array([float(value) for value in target - residual])


def numpys(X, y, degree):
    """Return the predictions of NumPy's best: Chebyshev.fit, or lstsq on scaled powers of several columns."""
    if X.shape[1] == 1:
        return np.polynomial.Chebyshev.fit(X[:, 0], y, degree)(X[:, 0])
    features = PolynomialFeatures(degree).fit_transform((X - X.mean(axis=0)) / np.abs(X - X.mean(axis=0)).max(axis=0))
    return features @ np.linalg.lstsq(features, y)[0]


CONTESTANTS = {
    "torchpoly": lambda X, y, degree: TorchPolynomialRegressor(degree).fit(X, y).predict(X),
    "NumPy": numpys,
    "scikit-learn": lambda X, y, degree: (
        make_pipeline(MinMaxScaler((-1, 1)), PolynomialFeatures(degree), LinearRegression()).fit(X, y).predict(X)
    ),
    "scikit-learn, raw X": lambda X, y, degree: (
        make_pipeline(PolynomialFeatures(degree), LinearRegression()).fit(X, y).predict(X)
    ),
}


def digits(predictions, exact):
    error = np.abs(predictions - exact).max() / exact.std()
    return max(0.0, -np.log10(max(error, 1e-16)))


def draw(of_one_column):
    figure, axes = plt.subplots(1, len(of_one_column), figsize=(12, 3.2), sharey=True, layout="constrained")
    styles = ["o-", "^:", "s-", "d--"]
    for axis, (design, rows) in zip(axes, of_one_column.items(), strict=True):
        degrees, *columns = zip(*rows, strict=True)
        for name, style, color, values in zip(CONTESTANTS, styles, COLORS, columns, strict=True):
            axis.plot(degrees, values, style, color=color, label=name)
        axis.set(title=design, xlabel="degree", xticks=degrees)
    axes[0].set_ylabel("correct digits")
    axes[0].legend(frameon=False, fontsize="small")
    picture(figure, "accuracy", "Correct digits by degree, one column, for five distributions of the rows")


def main():
    warnings.simplefilter("ignore")  # of ill-conditioned problems, which are the point
    print(environment())
    print("## Digits\n")
    behind, of_one_column = [], {}
    for design in DESIGNS:
        body = [[f"{design}: columns, degree", *CONTESTANTS]]
        for n_features, degree in SHAPES:
            if design == "nearly collinear" and n_features == 1:
                continue
            X, y = data(design, n_features)
            exact = reference(X, y, degree)
            row = [digits(predict(X, y, degree), exact) for predict in CONTESTANTS.values()]
            if n_features == 1:
                of_one_column.setdefault(design, []).append([degree, *row])
            body.append([f"{n_features}, {degree}", *(f"{value:.1f}" for value in row)])
            if row[0] < max(row[1:]) - 0.3:
                behind.append(f"{design} {n_features}, {degree}")
        table(body)
    draw(of_one_column)
    print(f"Cells in which another is more than a factor of 2 ahead: {', '.join(behind) or 'none'}.")


if __name__ == "__main__":
    main()
