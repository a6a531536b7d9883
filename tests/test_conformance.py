"""scikit-learn's own checks, none skipped and none expected to fail."""

import pytest
from sklearn.utils.estimator_checks import check_estimator

from torchpoly import TorchPolynomialRegressor

SETTINGS = [
    {},
    {"degree": 0},
    {"degree": 1},
    {"degree": 2},
    {"degree": 4},
    {"basis": "chebyshev"},
    {"basis": "monomial", "degree": 1},
    {"interaction_only": True},
    {"alpha": 0.1},
    {"alpha": 0.1, "basis": "chebyshev", "degree": 2},
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


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(map(str, settings.values())) or "defaults")
def test_check_estimator(settings):
    results = check_estimator(TorchPolynomialRegressor(**settings), on_fail=None, on_skip=None)

    failures = [(result["check_name"], result["status"], result["exception"]) for result in results]
    assert [failure for failure in failures if failure[1] != "passed"] == []
    assert len(results) > 40
