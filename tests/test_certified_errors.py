"""Standard deviations that NIST certifies, to the digits of double precision.

Statistical Reference Datasets, linear regression: Norris, Pontius, Longley, Wampler 3 to 5.
"""

import numpy as np
import pytest
from statsmodels.datasets import longley
from test_accuracy import WAMPLER, X_WAMPLER

from torchpoly import TorchPolynomialRegressor

# fmt: off
NORRIS_Y = np.array([
    0.1, 338.8, 118.1, 888.0, 9.2, 228.1, 668.5, 998.5, 449.1, 778.9, 559.2, 0.3, 0.1, 778.1, 668.8, 339.3,
    448.9, 10.8, 557.7, 228.3, 998.0, 888.8, 119.6, 0.3, 0.6, 557.6, 339.3, 888.0, 998.5, 778.9, 10.2, 117.6,
    228.9, 668.4, 449.2, 0.2,
])
NORRIS_X = np.array([
    0.2, 337.4, 118.2, 884.6, 10.1, 226.5, 666.3, 996.3, 448.6, 777.0, 558.2, 0.4, 0.6, 775.5, 666.9, 338.0,
    447.5, 11.6, 556.0, 228.1, 995.8, 887.6, 120.2, 0.3, 0.3, 556.8, 339.1, 887.2, 999.0, 779.0, 11.1, 118.3,
    229.2, 669.1, 448.9, 0.5,
])
PONTIUS_Y = np.array([
    0.11019, 0.21956, 0.32949, 0.43899, 0.54803, 0.65694, 0.76562, 0.87487, 0.98292, 1.09146, 1.20001, 1.30822,
    1.41599, 1.52399, 1.63194, 1.73947, 1.84646, 1.95392, 2.06128, 2.16844, 0.11052, 0.22018, 0.32939, 0.43886,
    0.54798, 0.65739, 0.76596, 0.87474, 0.98300, 1.09150, 1.20004, 1.30818, 1.41613, 1.52408, 1.63159, 1.73965,
    1.84696, 1.95445, 2.06177, 2.16829,
])
PONTIUS_X = np.array([
    150000, 300000, 450000, 600000, 750000, 900000, 1050000, 1200000, 1350000, 1500000, 1650000, 1800000,
    1950000, 2100000, 2250000, 2400000, 2550000, 2700000, 2850000, 3000000, 150000, 300000, 450000, 600000,
    750000, 900000, 1050000, 1200000, 1350000, 1500000, 1650000, 1800000, 1950000, 2100000, 2250000, 2400000,
    2550000, 2700000, 2850000, 3000000,
])
# fmt: on

LONGLEY = longley.load_pandas()

# The data, the degree, the certified standard deviations of the coefficients, and that of the residuals.
CERTIFIED = {
    "Norris": (NORRIS_X, NORRIS_Y, 1, [0.232818234301152, 0.429796848199937e-03], 0.884796396144373),
    "Pontius": (
        *(PONTIUS_X, PONTIUS_Y, 2),
        [0.107938612033077e-03, 0.157817399981659e-09, 0.486652849992036e-16],
        0.205177424076185e-03,
    ),
    "Longley": (
        *(LONGLEY.exog.to_numpy(dtype=float), LONGLEY.endog.to_numpy(dtype=float), 1),
        [
            *(890420.383607373, 84.9149257747669, 0.0334910077722432, 0.488399681651699),
            *(0.214274163161675, 0.226073200069370, 455.478499142212),
        ],
        304.854073561965,
    ),
}
WAMPLER_ERRORS = [
    *(2152.32624678170, 2363.55173469681, 779.343524331583, 101.475507550350, 5.64566512170752, 0.112324854679312),
]
for number, factor in {3: 1, 4: 100, 5: 10000}.items():
    errors = [factor * error for error in WAMPLER_ERRORS]
    CERTIFIED[f"Wampler{number}"] = X_WAMPLER, WAMPLER[number][0], 5, errors, factor * 2360.14502379268


def digits(values, certified):
    """Return the number of correct digits of each value, at most that of certified numbers."""
    error = np.abs(np.array(values) / certified - 1)
    return np.minimum(-np.log10(np.maximum(error, 1e-16)), 15)


@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_standard_deviations(name):
    x, y, degree, errors, residual_std = CERTIFIED[name]
    model = TorchPolynomialRegressor(degree).fit(x if x.ndim == 2 else x[:, None], y)
    found = digits([model.intercept_std_, *model.term_coef_std_], errors)
    assert found.min() >= 12.5
    assert digits(model.residual_std_, residual_std) >= 12.5
