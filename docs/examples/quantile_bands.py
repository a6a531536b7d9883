"""
A band that holds eight readings in ten
=======================================

How long a machine takes for a batch depends on the batch's size, and so does how much that varies.
The conditional mean says nothing of that. The 0.1 and the 0.9 quantile do: eight in ten
batches are between them.
"""

import matplotlib.pyplot as plt
import numpy as np

from torchpoly import PolynomialFitDisplay, TorchPolynomialRegressor

# %%
# Times with a skewed spread that grows with the size.
rng = np.random.default_rng(0)
size = rng.uniform(0, 10, 1500)
time = 5 + 2 * size - 0.12 * size**2 + rng.gamma(1.5, 0.3 + 0.25 * size)
X = size[:, None]

# %%
# One model for each quantile. The default optimizer ends within 1e-6 of the loss that linear
# programming finds, in milliseconds.
quantiles = {0.1: "tab:blue", 0.5: "k", 0.9: "tab:red"}
models = {
    quantile: TorchPolynomialRegressor(degree=3, loss="quantile", quantile=quantile).fit(X, time)
    for quantile in quantiles
}

# %%
# Do they hold what they promise, on batches they have not seen?
new_size = rng.uniform(0, 10, 20_000)
new_time = 5 + 2 * new_size - 0.12 * new_size**2 + rng.gamma(1.5, 0.3 + 0.25 * new_size)
for quantile, model in models.items():
    print(f"below the {quantile} quantile: {np.mean(new_time < model.predict(new_size[:, None])):.3f} of new batches")

# %%
# The picture.
figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
axis.scatter(size, time, s=8, color="0.75", linewidths=0)
lines = {
    quantile: PolynomialFitDisplay.from_estimator(
        model, X, ax=axis, color=quantiles[quantile], label=f"{quantile} quantile", linewidth=2
    ).line_
    for quantile, model in models.items()
}
axis.fill_between(lines[0.1].get_xdata(), lines[0.1].get_ydata(), lines[0.9].get_ydata(), color="tab:blue", alpha=0.1)
axis.set(title="Eight batches in ten are between the lines", xlabel="size of the batch", ylabel="time in minutes")
axis.legend(loc="upper left")
figure.savefig("quantile_bands.png", dpi=110)
print("Saved quantile_bands.png")
