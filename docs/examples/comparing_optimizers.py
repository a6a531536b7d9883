"""
Comparing optimizers by their loss curves
=========================================

Optimizers of torch train the same polynomial, each at its default learning rate. On the left in
coordinates that are orthonormal under the data, torchpoly's default; on the right in products of
Chebyshev polynomials as they are, where some directions are steeper than others.
"""

import matplotlib.pyplot as plt
import numpy as np

from torchpoly import LossCurveDisplay, TorchPolynomialRegressor

# %%
# A noisy surface over two columns, in the units that they came in.
rng = np.random.default_rng(0)
X = rng.normal([2, 20], [1, 5], (2000, 2))
y = np.sin(X[:, 0]) * X[:, 1] / 10 + 0.1 * rng.normal(size=2000)

optimum = TorchPolynomialRegressor(degree=4).fit(X, y).loss_curve_[-1]
print(f"least mean squared error of a polynomial of degree 4: {optimum:.6f}")

# %%
# 300 iterations of each, all the way: ``tol=None``. In the orthonormal basis SGD and L-BFGS are at
# the optimum after one.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
for axis, basis in zip(axes, ["orthonormal", "chebyshev"], strict=True):
    for name in ["adam", "nadam", "rmsprop", "adagrad", "sgd", "lbfgs"]:
        model = TorchPolynomialRegressor(4, optimizer=name, basis=basis, n_iter=300, tol=None).fit(X, y)
        excess = model.loss_curve_ - optimum
        reached = np.flatnonzero(excess < 1e-3 * optimum)
        print(f"{basis:12}{name:9}", f"within 0.1 % after {reached[0] + 1}" if reached.size else "not within 0.1 %")
        if len(reached) == 0 or reached[0] > 0:
            LossCurveDisplay.from_estimator(model, name=name, baseline=optimum, ax=axis)

axes[0].set(
    title="Orthonormal basis (sgd, lbfgs: one iteration)", ylabel="mean squared error above the least", ylim=(1e-16, 10)
)
axes[1].set(title="Chebyshev basis", ylabel="")
figure.savefig("comparing_optimizers.png", dpi=110)
print("Saved comparing_optimizers.png")
