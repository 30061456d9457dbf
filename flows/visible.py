"""What makes a run visible, and must never stop it: subflows, artifacts, progress. While Prefect's API is away the work
goes on without them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpx
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

T = TypeVar("T")
Logger = logging.Logger | logging.LoggerAdapter[Any]

# What Prefect's client raises when its API is away; the hub's own errors are none of these. Where a flow can't even
# begin it is a bare `RuntimeError`, told by its text.
API_AWAY = (httpx.HTTPError, PrefectException, OSError)


def logger() -> Logger:
    """The run's logger; names and ids only go there."""
    log: Logger = get_run_logger()
    return log


def started_by() -> str:
    """Who started the run, as Prefect knows it: a user, a schedule or an automation; else `prefect`."""
    context = FlowRunContext.get()
    by = context.flow_run.created_by if context is not None and context.flow_run is not None else None
    return (by.display_value if by is not None else None) or "prefect"


async def or_directly(subflow: Callable[[], Awaitable[T]], directly: Callable[[], Awaitable[T]]) -> T:
    """Run a subflow; where Prefect's API is away and it can't begin, do its work without it."""
    try:
        return await subflow()
    except (*API_AWAY, RuntimeError) as error:
        if type(error) is RuntimeError and "reach API" not in str(error):
            raise
        logger().warning("Prefect's API is away (%s): going on without a subflow", type(error).__name__)
    return await directly()


async def show(artifact: Awaitable[T]) -> T | None:
    """Write an artifact, if Prefect's API takes it within a moment; what it answered, else None."""
    with suppress(*API_AWAY, RuntimeError, TimeoutError):
        return await asyncio.wait_for(asyncio.ensure_future(artifact), 10)
    return None
