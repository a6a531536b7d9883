"""
Calibrating a sensor whose log has outliers
===========================================

A pressure sensor is calibrated against a reference over its range of temperatures. One reading in
eight was logged wrongly: a loose plug. Least squares follows these readings; the Huber loss finds
the calibration of the good ones, and its scale says which are bad.
"""

import matplotlib.pyplot as plt
import numpy as np

from torchpoly import PolynomialFitDisplay, TorchPolynomialRegressor

# %%
# The log: the error of the sensor drifts with its temperature, more at both ends.
rng = np.random.default_rng(0)
temperature = rng.uniform(-20, 60, 400)
pressure = rng.uniform(1, 5, 400)


def drift(temperature, pressure):
    return 8 * (temperature / 60) ** 3 - 4 * temperature / 60 + 0.4 * pressure


error = drift(temperature, pressure) + 0.15 * rng.normal(size=400)
loose = rng.random(400) < 0.125
error[loose] -= rng.uniform(2, 9, loose.sum()) * (temperature[loose] > 0)

X, y = np.column_stack([temperature, pressure]), error

# %%
# The two fits, one parameter apart.
squared = TorchPolynomialRegressor(degree=3).fit(X, y)
huber = TorchPolynomialRegressor(degree=3, loss="huber").fit(X, y)

truth = drift(temperature, pressure)
for name, model in {"squared error": squared, "Huber": huber}.items():
    print(f"{name:14} is off by {np.sqrt(np.mean((model.predict(X) - truth) ** 2)):.3f} mbar (root mean square)")

bad = np.abs(y - huber.predict(X)) > 5 * huber.scale_
print(f"scale of the good readings: {huber.scale_:.3f} mbar; beyond 5 of it: {bad.sum()} readings")
print(f"of these, logged through the loose plug: {loose[bad].sum()}")

# %%
# Both over the temperature, at the median pressure, and the readings that were found bad.
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
display = PolynomialFitDisplay.from_estimator(
    huber, X, y, residuals=True, ax=axes, label="Huber", color="tab:red", linewidth=2
)
PolynomialFitDisplay.from_estimator(
    squared, X, ax=axes[0], label="squared error", color="tab:blue", linestyle="--", linewidth=2
)
axes[0].set_title("Least squares follows the bad readings")
axes[1].scatter(temperature[bad], (y - huber.predict(X))[bad], s=14, color="tab:red", label="found bad")
axes[1].set_title("Residuals of the Huber fit")
for axis, name in zip(axes, ["error in mbar", "residual in mbar"], strict=True):
    axis.set(xlabel="temperature in °C", ylabel=name)
axes[1].legend(loc="lower left")

display.figure_.savefig("sensor_calibration.png", dpi=110)
print("Saved sensor_calibration.png")
