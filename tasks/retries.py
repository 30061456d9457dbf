"""Which failures of a task are worth another try. Long waits don't belong here: what can't go now waits in staging."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from tideover.errors import AccessError, HubUnavailable, Overtaken, SourceContract, SourceError, SourceLoop

DELAYS_S = [1, 3, 9]
JITTER = 0.5


# A plain function: Prefect silently never retries for a partial, a method or a callable object.
def is_worth_another_try(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """True of a source or a database that did not answer; false of what will be the same next time."""
    error = state.data
    if isinstance(error, SourceLoop | SourceContract | Overtaken | AccessError):
        return False
    return isinstance(error, SourceError | HubUnavailable)
