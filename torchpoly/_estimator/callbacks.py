"""The tasks of a fit for scikit-learn's callbacks, which exist from version 1.9 on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Tasks:
    """The tasks of a fit that callbacks receive.

    Parameters
    ----------
    estimator : estimator
        The estimator whose callbacks are called.
    X, y : array-like
        The data as the user passed them.
    sample_weight : array-like or None
    n_tasks : int
        Number of tasks that the fit consists of.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, n_tasks: int) -> None:
        self._estimator = estimator
        self._data = {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
        self._fit = self._begin(estimator._init_callback_context(max_subtasks=n_tasks))

    def _begin(self, task: Any) -> Any:
        return task.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def _end(self, task: Any, **fitted: Any) -> bool:
        return bool(task.call_on_fit_task_end(estimator=self._estimator, **self._data, **fitted))


class FitTasks(Tasks):
    """The tasks of a polynomial fit: read the rows by chunks, then train by iterations.

    Parameters
    ----------
    estimator, X, y, sample_weight
        See :class:`Tasks`.
    n_chunks : int
        Greatest number of chunks.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, n_chunks: int) -> None:
        super().__init__(estimator, X, y, sample_weight, n_tasks=2)
        self._n_left = n_chunks
        self._phase = self._begin(self._fit.subcontext(task_name="read", max_subtasks=n_chunks))

    def read_chunk(self) -> None:
        """Report that a chunk has been read. A second pass over the rows is not reported."""
        if self._n_left:
            self._n_left -= 1
            self._end(self._begin(self._phase.subcontext(task_name="chunk")))

    def train(self, fitted: Callable[[Sequence[float]], dict[str, Any]], n_iter: int) -> None:
        """End the reading and begin the training.

        Parameters
        ----------
        fitted : callable
            It takes the losses so far and returns the fitted attributes of the current iteration.
        n_iter : int
            Greatest number of iterations.
        """
        self._end(self._phase)
        self._fitted = fitted
        self._phase = self._begin(self._fit.subcontext(task_name="train", max_subtasks=n_iter))

    def on_iteration_begin(self) -> None:
        """Begin an iteration."""
        self._iteration = self._begin(self._phase.subcontext(task_name="iteration"))

    def on_iteration_end(self, losses: Sequence[float]) -> bool:
        """End an iteration, and return whether a callback asks to stop."""
        return self._end(self._iteration, reconstruction_attributes=lambda: self._fitted(losses))

    def finish(self) -> None:
        """End the training and the fit."""
        self._end(self._phase)
        self._end(self._fit)
