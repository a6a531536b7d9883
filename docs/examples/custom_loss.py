"""
A loss of one's own: running out costs more than leftovers
==========================================================

A bakery plans by the temperature forecast. A roll too few costs a customer, a roll too many the
dough: say, five times less. So the plan should lie above the mean, by more where the demand varies more.
Any function of torch tensors can be the loss.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from torchpoly import PolynomialFitDisplay, TorchPolynomialRegressor

# %%
# Three years of days: demand peaks at mild temperatures and scatters most there.
rng = np.random.default_rng(0)
temperature = rng.uniform(-5, 35, 1000)
peak = np.exp(-(((temperature - 18) / 12) ** 2))
rolls = 150 + 220 * peak + (10 + 50 * peak) * rng.normal(size=1000)
X = temperature[:, None]


# %%
# The cost of a plan, per day: squared, since much too few is worse than a little too few twice.
def cost(planned, sold):
    missing = sold - planned
    return torch.where(missing > 0, 5.0, 1.0) * missing**2


mean = TorchPolynomialRegressor(degree=5).fit(X, rolls)
plan = TorchPolynomialRegressor(degree=5, loss=cost).fit(X, rolls)

# %%
# What a year of new days costs by either plan.
new_temperature = rng.uniform(-5, 35, 365)
new_peak = np.exp(-(((new_temperature - 18) / 12) ** 2))
new_rolls = 150 + 220 * new_peak + (10 + 50 * new_peak) * rng.normal(size=365)
for name, model in {"the mean": mean, "the plan": plan}.items():
    planned = torch.tensor(model.predict(new_temperature[:, None]))
    daily = cost(planned, torch.tensor(new_rolls)).mean().item()
    print(f"{name}: cost per day {daily:6.0f}, sold out on {(planned.numpy() < new_rolls).mean():.0%} of the days")

# %%
# The picture.
figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
PolynomialFitDisplay.from_estimator(mean, X, rolls, ax=axis, color="tab:blue", linestyle="--", label="mean")
PolynomialFitDisplay.from_estimator(plan, X, ax=axis, color="tab:red", label="plan: a missing roll costs 5 times")
axis.set(title="The plan under a loss of one's own", xlabel="temperature in °C", ylabel="rolls sold in a day")
figure.savefig("custom_loss.png", dpi=110)
print("Saved custom_loss.png")
