"""
The optimum of a response surface
=================================

Thirty experiments measured the yield of a reaction at various temperatures and times. A polynomial
of degree 3 is fitted to them, and the best setting is found by gradient ascent through the fitted
polynomial as a torch module, within the range that was tried.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from torchpoly import TorchPolynomialRegressor

# %%
# The experiments. The true surface is not a polynomial.
rng = np.random.default_rng(0)
low, high = np.array([140.0, 20.0]), np.array([200.0, 90.0])
X = rng.uniform(low, high, (30, 2))


def true_yield(settings):
    temperature, time = (settings - [176, 48]).T
    return 82 * np.exp(-((temperature / 38) ** 2) - (time / 55) ** 2 - temperature * time / 2500)


y = true_yield(X) + rng.normal(size=30)

# %%
# The fit. ``extrapolation="constant"`` keeps the search honest: outside the box nothing is gained.
model = TorchPolynomialRegressor(degree=3, extrapolation="constant").fit(X, y)
surface = model.module_
print(model.equation())

# %%
# Gradient ascent from a corner, in units of the ranges, by torch's Adam.
position = torch.tensor([0.1, 0.9], dtype=torch.float64, requires_grad=True)
corner, width = torch.tensor(low), torch.tensor(high - low)
optimizer = torch.optim.Adam([position], lr=0.01, maximize=True)
path = []
for _ in range(400):
    settings = corner + width * position
    path.append(settings.detach().numpy())
    optimizer.zero_grad()
    surface(settings[None]).sum().backward()
    optimizer.step()
path = np.array(path)
best = path[-1]
print(f"best setting: {best[0]:.1f} °C for {best[1]:.1f} min")
print(f"predicted yield {model.predict(best[None])[0]:.1f} %, true yield there {true_yield(best[None])[0]:.1f} %")

# %%
# The picture.
grid = np.stack(np.meshgrid(*np.linspace(low, high, 80).T), axis=-1)
predicted = model.predict(grid.reshape(-1, 2)).reshape(80, 80)
figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
filled = axis.contourf(grid[..., 0], grid[..., 1], predicted, levels=15, cmap="viridis")
figure.colorbar(filled, label="predicted yield in %")
axis.scatter(*X.T, color="white", edgecolors="k", s=30, label="experiments")
axis.plot(*path.T, color="tab:red", linewidth=2, label="gradient ascent")
axis.plot(*best, "*", color="tab:red", markersize=18, markeredgecolor="white", label="best setting")
axis.set(title="Yield of the reaction", xlabel="temperature in °C", ylabel="time in min")
axis.legend(loc="lower left", framealpha=0.9)
figure.savefig("response_surface.png", dpi=110)
print("Saved response_surface.png")
