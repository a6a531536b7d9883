"""Questions to a finished fit."""

from torchpoly.inspection._anova import Anova, anova
from torchpoly.inspection._intervals import predict_interval
from torchpoly.inspection._jackknife import jackknife_interval
from torchpoly.inspection._leverage import Influence, influence, is_extrapolating, leverage
from torchpoly.inspection._summary import Summary, TargetSummary, covariance, summary

__all__ = [
    "Anova",
    "Influence",
    "Summary",
    "TargetSummary",
    "anova",
    "covariance",
    "influence",
    "is_extrapolating",
    "jackknife_interval",
    "leverage",
    "predict_interval",
    "summary",
]
