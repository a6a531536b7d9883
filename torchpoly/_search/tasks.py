"""The tasks of a search for scikit-learn's callbacks, which exist from version 1.9 on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchpoly._backend.sklearn_compat import has_callbacks, safe_split
from torchpoly._estimator.callbacks import Tasks


class SearchTasks(Tasks):
    """The tasks of GridSearchCV: evaluate each candidate on each split, then refit.

    Without callbacks, all methods do nothing.

    Parameters
    ----------
    search : PolynomialGridSearchCV
        The search whose callbacks are called.
    X, y, sample_weight
        See :class:`~torchpoly._estimator.callbacks.Tasks`.
    """

    def __init__(self, search: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self.has_callbacks = has_callbacks(search)
        if self.has_callbacks:
            super().__init__(search, X, y, sample_weight, n_tasks=1 + (search.refit is not False))

    def begin_evaluations(self, number: int) -> None:
        """Begin the task of which each evaluation is a part."""
        if self.has_callbacks:
            task = self._fit.subcontext(task_name="search", max_subtasks=number, sequential_subtasks=False)
            self._evaluations = task.call_on_fit_task_begin(estimator=self._estimator)

    def evaluation(self, number: int) -> dict[str, Any]:
        """Return the arguments of scikit-learn's evaluation that concern callbacks."""
        if not self.has_callbacks:
            return {}
        context = self._evaluations.subcontext(task_name="candidate-split-evaluation", task_id=number)
        return {"caller": self._estimator, "callback_ctx": context}

    def report_evaluation(self, number: int, training: Any) -> None:
        """Begin and end the task of an evaluation on the fast path, which trained on these rows."""
        if self.has_callbacks:
            X, y = safe_split(self._estimator.estimator, self._data["X"], self._data["y"], training)
            task = self.evaluation(number)["callback_ctx"]
            task.call_on_fit_task_begin(estimator=self._estimator, X=X, y=y)
            task.call_on_fit_task_end(estimator=self._estimator, X=X, y=y)

    def end_evaluations(self) -> None:
        """End the task that :meth:`begin_evaluations` began."""
        if self.has_callbacks:
            self._evaluations.call_on_fit_task_end(estimator=self._estimator)

    @contextmanager
    def refit(self, estimator: Any) -> Iterator[None]:
        """Begin and end the task in which the best candidate is fitted."""
        if not self.has_callbacks:
            yield
            return
        task = self._fit.subcontext(task_name="refit-with-best-params")
        with task.propagate_callback_context(estimator):
            self._begin(task)
            yield
        self._end(task)

    def finish(self) -> None:
        """End the search."""
        if self.has_callbacks:
            self._end(self._fit)
