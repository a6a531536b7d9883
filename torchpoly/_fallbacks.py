"""The fits of a search that scikit-learn evaluates one by one, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import product
from typing import Any

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


def as_text(reason: str | Exception) -> str:
    """Return what is reported of a reason."""
    return reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
