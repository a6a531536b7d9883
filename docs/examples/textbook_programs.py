"""
Four textbook programs, and the same in one line each
=====================================================

Tutorials on torch begin with a cubic fitted to a sine: by hand in NumPy, by autograd, with
``nn.Linear``; courses go on with a noisy quadratic. As written, all four stop short of the optimum.
This script runs them as written, next to :class:`torchpoly.TorchPolynomialRegressor`.
"""

from statistics import median
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch

from torchpoly import TorchPolynomialRegressor

# %%
# The data: a sine on 2000 points, and 20 x^2 + 5 x - 3 with unit noise on 100 points.
x = np.linspace(-np.pi, np.pi, 2000)
y = np.sin(x)
X = x[:, None]

rng = np.random.default_rng(0)
x_noisy = np.linspace(0, 1, 100)
y_noisy = 20 * x_noisy**2 + 5 * x_noisy - 3 + rng.normal(size=100)
X_noisy = x_noisy[:, None]


# %%
# The loops. (a) Gradient descent by hand, 2400 rounds.
def gradient_descent_by_hand():
    a, b, c, d = np.random.default_rng(0).normal(size=4)
    for _ in range(2400):
        grad = 2 * (a + b * x + c * x**2 + d * x**3 - y)
        a -= 1e-6 * grad.sum()
        b -= 1e-6 * (grad * x).sum()
        c -= 1e-6 * (grad * x**2).sum()
        d -= 1e-6 * (grad * x**3).sum()
    return a + b * x + c * x**2 + d * x**3


# %%
# (b) The same, with the gradient from autograd.
def autograd():
    generator = torch.Generator().manual_seed(0)
    t, target = torch.tensor(x), torch.tensor(y)
    weights = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
    for _ in range(2400):
        loss = (weights[0] + weights[1] * t + weights[2] * t**2 + weights[3] * t**3 - target).pow(2).sum()
        loss.backward()
        with torch.no_grad():
            weights -= 1e-6 * weights.grad
            weights.grad = None
    w = weights.detach().numpy()
    return w[0] + w[1] * x + w[2] * x**2 + w[3] * x**3


# %%
# (c) The same as a linear layer on (x, x^2, x^3), with RMSprop.
def linear_layer():
    features = torch.tensor(x, dtype=torch.float32)[:, None] ** torch.tensor([1, 2, 3])
    target = torch.tensor(y, dtype=torch.float32)
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0, 1))
    loss_function = torch.nn.MSELoss(reduction="sum")
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for _ in range(2400):
        loss = loss_function(model(features), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model(features).detach().numpy()


# %%
# (d) The quadratic: mean squared error, 15000 rounds. In raw powers of raw x, from 0, with plain
# gradient descent, torchpoly is that loop itself, and keeps its loss curve.
quadratic_loop = TorchPolynomialRegressor(2, basis="monomial", optimizer="sgd", lr=1e-3, n_iter=15_000, tol=None)

# %%
# The one line. For (d), it is the same one.
model = TorchPolynomialRegressor(degree=3).fit(X, y)
quadratic = TorchPolynomialRegressor(degree=2).fit(X_noisy, y_noisy)
quadratic_loop.fit(X_noisy, y_noisy)


# %%
# How long the linear layer's loop takes, and how long the one line; torch is warm by now.
def seconds(function, repetitions):
    times = []
    for _ in range(repetitions):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return median(times)


loop_seconds = seconds(linear_layer, 3)
fit_seconds = seconds(lambda: model.fit(X, y), 30)

print("Sum of squares, 2400 rounds of 2000 points:")
for name, prediction in {
    "(a) by hand": gradient_descent_by_hand(),
    "(b) autograd": autograd(),
    "(c) nn.Linear, RMSprop": linear_layer(),
    "torchpoly": model.predict(X),
}.items():
    print(f"  {name:24}{np.sum((prediction - y) ** 2):8.4f}")
print(model.equation(4))
print(f"R2 = {model.score(X, y):.6f}")
print(f"loop (c): {loop_seconds:.3f} s, torchpoly: {fit_seconds:.5f} s, {loop_seconds / fit_seconds:.0f} times faster")

print("\nNoisy quadratic, truth: y = -3 + 5*x0 + 20*x0**2")
print(f"  (d) after 15000 rounds: {quadratic_loop.equation(4)}")
print(f"  torchpoly:              {quadratic.equation(4)}")

# %%
# The picture.
figure, (fit_axis, loss_axis, noisy_axis) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
fit_axis.plot(x, y, color="0.6", linewidth=4, label="sin x")
fit_axis.plot(x, model.predict(X), color="tab:red", label="torchpoly, degree 3")
fit_axis.plot(x, TorchPolynomialRegressor(degree=7).fit(X, y).predict(X), "k:", label="degree 7")
fit_axis.set(title=f"A cubic for the sine, in {1000 * fit_seconds:.1f} ms", xlabel="x", ylabel="y")
fit_axis.legend(frameon=False)

loss_axis.plot(np.arange(1, 15_001), quadratic_loop.loss_curve_, color="tab:blue", label="textbook loop (d)")
loss_axis.axhline(quadratic.loss_curve_[-1], color="tab:red", label=f"torchpoly, {quadratic.n_iter_} iteration")
loss_axis.set(
    title="Loss of the noisy quadratic", xlabel="round", ylabel="mean squared error", xscale="log", yscale="log"
)
loss_axis.legend(frameon=False)

noisy_axis.plot(x_noisy, y_noisy, ".", color="0.6", label="data")
noisy_axis.plot(x_noisy, quadratic_loop.predict(X_noisy), color="tab:blue", label="loop (d), 15000 rounds")
noisy_axis.plot(x_noisy, quadratic.predict(X_noisy), color="tab:red", label="torchpoly")
noisy_axis.set(title="Predictions over data", xlabel="x", ylabel="y")
noisy_axis.legend(frameon=False)

figure.savefig("textbook_programs.png", dpi=120)
print("\nSaved textbook_programs.png")
