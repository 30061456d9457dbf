"""What opening a hub does to Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tideover.bootstrap import YOUNG_OBJECTS, collect_less_often


@pytest.fixture(autouse=True)
def _threshold_afterwards() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_collector_at_its_default_collects_the_young_less_often() -> None:
    gc.set_threshold(700, 10, 10)
    collect_less_often()
    assert gc.get_threshold() == (YOUNG_OBJECTS, 10, 10)


@pytest.mark.parametrize("young", [0, 2 * YOUNG_OBJECTS])
def test_collector_that_somebody_set_to_collect_less_stays_so(young: int) -> None:
    gc.set_threshold(young, 5, 7)
    collect_less_often()
    assert gc.get_threshold() == (young, 5, 7)
