"""Why fits of a search fall back to scikit-learn's evaluation: a decision of the search, or an exception.

A fit is a pair of the index of a candidate and the index of a split.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

Fit = tuple[int, int]
Reason = str | Exception
Result = dict[str, Any]


def fallback_lines(reasons: dict[Fit, Reason], n_fits: int) -> list[str]:
    """Return a line with the number of fits for each reason."""
    counts = Counter(map(as_text, reasons.values()))
    return [f"{count} of {n_fits} fits fall back to scikit-learn: {reason}" for reason, count in counts.items()]


def unexpected_exceptions(reasons: dict[Fit, Reason], results: dict[Fit, Result]) -> list[str]:
    """Return the exceptions of the fast path that scikit-learn's evaluation of the same fits did not raise.

    Parameters
    ----------
    reasons : dict of (int, int) to str or Exception
        Why fits fell back.
    results : dict of (int, int) to dict
        The results of all fits.
    """
    raised = {fit: as_text(reason) for fit, reason in reasons.items() if isinstance(reason, Exception)}
    # If both evaluations fail, the error is in the user's data, such as NaN in y, and scikit-learn reports it.
    expected = {text for fit, text in raised.items() if _has_failed(results[fit])}
    return [text for text in dict.fromkeys(raised.values()) if text not in expected]


def _has_failed(result: Result) -> bool:
    scores = result["test_scores"]
    values = scores.values() if isinstance(scores, dict) else [scores]
    return result["fit_error"] is not None or not np.isfinite(list(values)).all()


def as_text(reason: Reason) -> str:
    """Return a reason as a report quotes it."""
    return reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
