"""
Choosing degree and alpha by a grid search
==========================================

How flexible a polynomial should be, cross-validation tells. ``PolynomialGridSearchCV`` takes the
place of scikit-learn's ``GridSearchCV``, and tries the whole grid in one reading of the rows.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

shuffled = KFold(5, shuffle=True, random_state=0)


def draw_scores(axis, search, title):
    """A heat map of mean test scores, degree by alpha, with the chosen candidate marked."""
    degrees, alphas = search.param_grid["degree"], search.param_grid["alpha"]
    # The grid varies its last name, in the order of the alphabet, fastest.
    scores = search.cv_results_["mean_test_score"].reshape(len(alphas), len(degrees)).T
    best = scores.max()
    image = axis.imshow(scores, vmin=best - 0.2, vmax=best, cmap="viridis", origin="lower", aspect="auto")
    axis.figure.colorbar(image, ax=axis, extend="min", label="mean $R^2$ of 5 folds")
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    axis.plot(column, row, "o", mfc="none", mec="tab:red", ms=13, mew=2.5)
    axis.set_xticks(range(len(alphas)), [f"{alpha:.0e}" if alpha else "0" for alpha in alphas], rotation=60)
    axis.set_yticks(range(len(degrees)), degrees)
    axis.set(title=title, xlabel="alpha", ylabel="degree")


# %%
# 442 diabetes patients, 10 measurements each, and how far their disease got in a year. There are 66
# terms at degree 2 and 286 at degree 3, so only a penalty keeps them from fitting noise.
X, y = load_diabetes(return_X_y=True)
grid = {"degree": [1, 2, 3], "alpha": [0.0, *np.geomspace(1e-4, 10, 11).tolist()]}
patients = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid, cv=shuffled).fit(X, y)
print(f"diabetes: {patients.best_params_}, R2 {patients.best_score_:.3f}")

figure, (scores_axis, axis) = plt.subplots(1, 2, figsize=(11, 4.3), layout="constrained")
draw_scores(scores_axis, patients, "Diabetes: 442 patients, 10 measurements")
axis.plot(patients.predict(X), y, ".", alpha=0.5)
axis.axline((150, 150), slope=1, color="tab:red", lw=1.5, label="as predicted")
axis.set(
    title="The chosen polynomial, on all patients", xlabel="predicted progression", ylabel="progression after a year"
)
axis.legend()
figure.savefig("grid_search_diabetes.png", dpi=110)

# %%
# A surface over two columns, measured 50000 times with as much noise as signal: 12 degrees, 8
# penalties and 5 folds make 480 fits.
rng = np.random.default_rng(0)
X = rng.uniform(-3, 3, (50_000, 2))


def surface(u, v):
    peak = 3 * (1 - u) ** 2 * np.exp(-(u**2) - (v + 1) ** 2) - np.exp(-((u + 1) ** 2) - v**2) / 3
    return peak - 10 * (u / 5 - u**3 - v**5) * np.exp(-(u**2) - v**2)


y = surface(*X.T)
y += y.std() * rng.normal(size=len(y))
grid = {"degree": list(range(2, 25, 2)), "alpha": [0.0, *np.geomspace(1e-6, 1, 7).tolist()]}
start = perf_counter()
search = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid, cv=shuffled).fit(X, y)
print(f"surface: {search.best_params_}, R2 {search.best_score_:.3f}, 480 fits in {perf_counter() - start:.1f} s")

figure, (scores_axis, axis) = plt.subplots(1, 2, figsize=(11, 4.3), layout="constrained")
draw_scores(scores_axis, search, "Surface: 50000 noisy readings")
u, v = np.meshgrid(np.linspace(-3, 3, 121), np.linspace(-3, 3, 121))
chosen = search.predict(np.column_stack([u.ravel(), v.ravel()])).reshape(u.shape)
levels = np.linspace(-6, 8, 15)
filled = axis.contourf(u, v, chosen, levels=levels, cmap="viridis", extend="both")
axis.contour(u, v, surface(u, v), levels=levels, colors="white", linewidths=1)
figure.colorbar(filled, ax=axis)
axis.set(title="The chosen polynomial, and white the surface itself", xlabel="$x_0$", ylabel="$x_1$")

figure.savefig("grid_search.png", dpi=110)
print("Saved grid_search_diabetes.png and grid_search.png")
