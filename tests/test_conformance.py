"""scikit-learn's own checks: none expected to fail, none skipped but for libraries and devices that are not here."""

import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from torchpoly import TorchPolynomialRegressor


def log_cosh(y_pred, y_true):
    return torch.log(torch.cosh(y_pred - y_true))


SETTINGS = [
    {"degree": 0},
    {"degree": 1},
    {"degree": 2},
    {"degree": 4},
    {"basis": "chebyshev"},
    {"basis": "monomial", "degree": 1},
    {"interaction_only": True},
    {"alpha": 0.1},
    {"alpha": 0.1, "basis": "chebyshev", "degree": 2},
    {"extrapolation": "constant"},
    {"extrapolation": "linear"},
    {"warm_start": True},
    *(
        settings | more
        for settings in [
            {"loss": "absolute_error"},
            {"loss": "huber"},
            {"loss": "quantile"},
            {"loss": "quantile", "quantile": 0.9},
            {"loss": log_cosh},
            {"loss": torch.nn.SmoothL1Loss(reduction="none")},
        ]
        for more in [{}, {"degree": 1}, {"alpha": 0.1}]
    ),
    *(
        {"optimizer": name}
        for name in [
            "adadelta",
            "adafactor",
            "adagrad",
            "adam",
            "adamax",
            "adamw",
            "asgd",
            "nadam",
            "radam",
            "rmsprop",
            "rprop",
            "sgd",
        ]
    ),
]


def name(settings):
    return ",".join(getattr(value, "__name__", str(value)) for value in settings.values()) or "defaults"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("settings", [{}, *(pytest.param(more, marks=pytest.mark.slow) for more in SETTINGS)], ids=name)
def test_check_estimator(settings):
    results = check_estimator(TorchPolynomialRegressor(**settings), on_fail=None, on_skip=None)

    failures = [
        (result["check_name"], result["status"], result["exception"])
        for result in results
        if result["status"] != "passed"
        and not (result["check_name"].startswith("check_array_api") and result["status"] == "skipped")
    ]
    assert failures == []
    assert len(results) > 40
