"""scikit-learn's callbacks, from version 1.9 on: how far a search is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torchpoly._backend.sklearn_compat import has_callbacks, safe_split


class SearchTasks:
    """The tasks of a search, as GridSearchCV has them: to evaluate each candidate on each split, then to refit.

    Parameters
    ----------
    search : PolynomialGridSearchCV
        Whose callbacks are called.
    X, y : array-like
        As the user gave them.
    sample_weight : array-like or None
    """

    def __init__(self, search: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self.are_watched = has_callbacks(search)
        self._search = search
        self._X, self._y = X, y
        self._data = {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
        if hasattr(search, "_init_callback_context"):
            self._fit = search._init_callback_context(max_subtasks=1 + (search.refit is not False))
            self._fit.call_on_fit_task_begin(estimator=search, **self._data)

    def begin(self, n_evaluations: int) -> None:
        """Tell that so many evaluations begin."""
        if self.are_watched:
            self._evaluations = self._fit.subcontext(
                task_name="search", max_subtasks=n_evaluations, sequential_subtasks=False
            ).call_on_fit_task_begin(estimator=self._search)

    def evaluation(self, number: int) -> dict[str, Any]:
        """Return what scikit-learn's own path is given of an evaluation."""
        if not self.are_watched:
            return {}
        context = self._evaluations.subcontext(task_name="candidate-split-evaluation", task_id=number)
        return {"caller": self._search, "callback_ctx": context}

    def tell(self, number: int, training: Any) -> None:
        """Tell that an evaluation, which trained on these rows, has been done."""
        if self.are_watched:
            X, y = safe_split(self._search.estimator, self._X, self._y, training)
            context = self.evaluation(number)["callback_ctx"]
            context.call_on_fit_task_begin(estimator=self._search, X=X, y=y)
            context.call_on_fit_task_end(estimator=self._search, X=X, y=y)

    def end(self) -> None:
        """Tell that the evaluations have ended."""
        if self.are_watched:
            self._evaluations.call_on_fit_task_end(estimator=self._search)

    def refit(self, estimator: Any) -> AbstractContextManager:
        """Return the context in which the best candidate is fitted."""
        return self._refit(estimator) if self.are_watched else nullcontext()

    @contextmanager
    def _refit(self, estimator: Any) -> Iterator[None]:
        context = self._fit.subcontext(task_name="refit-with-best-params")
        with context.propagate_callback_context(estimator):
            context.call_on_fit_task_begin(estimator=self._search, **self._data)
            yield
        context.call_on_fit_task_end(estimator=self._search, **self._data)

    def finish(self) -> None:
        """Tell that the search has ended."""
        if self.are_watched:
            self._fit.call_on_fit_task_end(estimator=self._search, **self._data)
