"""
How sure is the curve?
======================

The progression of diabetes over the body mass index, in 442 patients: the table that scikit-learn ships. Is a straight
line enough? How certain is it, and where will the next patient be?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

from torchpoly import DiagnosticsDisplay, PolynomialFitDisplay, TorchPolynomialRegressor
from torchpoly.inspection import anova, predict_interval, summary

# %%
# The fit of degree 3, and what each degree explains. The F of degrees 2 and 3 are about 1, as noise gives: a straight
# line is enough.
X, y = load_diabetes(return_X_y=True, scaled=False)
bmi = X[:, [2]]
cubic = TorchPolynomialRegressor(degree=3).fit(bmi, y)
print(anova(cubic, bmi, y))

# %%
# The coefficients of the straight line, with their standard errors.
line = TorchPolynomialRegressor(degree=1).fit(bmi, y)
print(summary(line, bmi, y))

# %%
# The mean is known well, and the next patient is not: other things than the body mass index matter.
mean, std = line.predict([[30.0]], return_std=True)
low, high = predict_interval(line, [[30.0]])[0]
print(f"at a body mass index of 30: mean {mean[0]:.0f} with a standard error of {std[0]:.1f}")
print(f"95 % of new patients: {low:.0f} to {high:.0f}")

# %%
# Both bands, and the cubic, whose band is wide at both ends.
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
for ax, model, name in zip(axes, [line, cubic], ["straight line", "degree 3"], strict=True):
    PolynomialFitDisplay.from_estimator(model, bmi, y, interval="prediction", ax=ax, label="95 % of new patients")
    PolynomialFitDisplay.from_estimator(
        model, bmi, interval="confidence", ax=ax, color="tab:blue", label="95 % for the mean"
    )
    ax.set(title=name, xlabel="body mass index", ylabel="progression")

# %%
# Is the fit right? The errors are smaller where the prediction is small, and nearly normal. No patient moves the line
# much.
diagnostics = DiagnosticsDisplay.from_estimator(line, bmi, y)
worst = np.abs(diagnostics.externally_studentized_residuals).max()
print(f"largest studentized residual: {worst:.1f}")

figure.savefig("uncertainty.png", dpi=110)
diagnostics.figure_.savefig("uncertainty_diagnostics.png", dpi=110)
print("Saved uncertainty.png and uncertainty_diagnostics.png")
