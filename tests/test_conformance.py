"""scikit-learn's own checks: none skipped but for libraries and devices that are not here.

None is expected to fail, but for what leave-one-out does not have.
"""

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


NO_BATCHES = "leave-one-out errors need the rows"
EXPECTED = {
    "check_fit_score_takes_y": NO_BATCHES,
    "check_n_features_in_after_fitting": NO_BATCHES,
    "check_estimators_partial_fit_n_features": NO_BATCHES,
    "check_sample_weight_equivalence_on_dense_data": "a copy of the row left out stays",
}


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::torchpoly.OverfittingWarning")
@pytest.mark.parametrize("settings", [{"degree": "loo", "alpha": "loo", "extrapolation": "constant"}], ids=name)
def test_check_estimator_with_leave_one_out(settings):
    results = check_estimator(
        TorchPolynomialRegressor(**settings), expected_failed_checks=EXPECTED, on_fail=None, on_skip=None
    )
    statuses = {result["check_name"]: result["status"] for result in results if result["status"] != "passed"}
    skipped = {check for check, status in statuses.items() if status == "skipped"}
    assert all(check.startswith("check_array_api") for check in skipped)
    assert {check for check, status in statuses.items() if status == "xfail"} == set(EXPECTED)
    assert set(statuses) == skipped | set(EXPECTED)
