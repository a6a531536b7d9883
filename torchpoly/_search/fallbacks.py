"""The fits of a search that scikit-learn evaluates one by one, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

Result = dict[str, Any]


class Fallbacks:
    """Why fits do not take the fast path: by design, or because of an exception.

    Fits are pairs of the index of a candidate and that of a split.
    """

    def __init__(self) -> None:
        self._reasons: dict[tuple[int, int], str | Exception] = {}

    def add(self, candidates: Iterable[int], splits: Iterable[int], reason: str | Exception) -> None:
        """Note why candidates do not take it on splits."""
        self._reasons |= dict.fromkeys(product(candidates, splits), reason)

    def lines(self, n_fits: int) -> list[str]:
        """Return a line for each reason."""
        counts = Counter(map(as_text, self._reasons.values()))
        return [f"{count} of {n_fits} fits fall back to scikit-learn: {reason}" for reason, count in counts.items()]

    def exceptions(self, results: dict[tuple[int, int], Result]) -> list[str]:
        """Return the exceptions because of which fits have fallen back, if scikit-learn has not met them too.

        Parameters
        ----------
        results : dict of (int, int) to dict
            What has become of the fits.
        """
        raised = {fit: as_text(reason) for fit, reason in self._reasons.items() if isinstance(reason, Exception)}
        # What fails both ways is the user's own error, such as NaN in y, and scikit-learn reports it.
        met_again = {text for fit, text in raised.items() if _has_failed(results[fit])}
        return [text for text in dict.fromkeys(raised.values()) if text not in met_again]


def _has_failed(result: Result) -> bool:
    scores = result["test_scores"]
    values = scores.values() if isinstance(scores, dict) else [scores]
    return result["fit_error"] is not None or not np.isfinite(list(values)).all()


def as_text(reason: str | Exception) -> str:
    """Return what is reported of a reason."""
    return reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
