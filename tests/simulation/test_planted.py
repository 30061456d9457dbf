"""Does the simulator find what it is there for? Each planted bug is caught, by a promise that it breaks, within a
stated number of seeds, and without it the very same seeds keep every promise.

`PLANTED_SEEDS=all` counts the seeds from 0, which takes many minutes; else each bug's begin where it is soon found.
"""

from __future__ import annotations

import functools
import os

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.patches import DoesNotFit, Edit
from tests.simulation.scenario import scenario_of
from tests.simulation.verdict import Failed
from tests.simulation.world import run
from tideover.model import Resolve
from tideover.policy import resolve
from tideover.policy.resolve import ResolveRule

ESSENTIAL = {
    "acknowledge before commit",
    "new key on retry",
    "no fence",
    "unknown treated as unsent",
    "expired lease treated as ready",
    "breaker get-then-set",
    "half-open stampede",
    "cursor moved before staging",
    "lane released at lease expiry",
    "`latest` supersedes a record in flight",
    "failback with records in flight",
    "throttle counted as failure",
}


@functools.cache
def sound(seed: int) -> Failed | None:
    """What the engine as it is breaks under a seed."""
    return run(scenario_of(seed)).failed


def seeds_of(bug: Bug) -> range:
    first = 0 if os.environ.get("PLANTED_SEEDS") == "all" else bug.first
    return range(first, bug.within)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_caught_by_a_promise_that_it_breaks(bug: Bug) -> None:
    for seed in seeds_of(bug):
        with bug.planted():
            failed = run(scenario_of(seed)).failed
        assert sound(seed) is None, f"seed {seed} without the bug"
        if failed is not None:
            assert failed.rule in bug.rules, f"seed {seed}: {failed}"
            return
    pytest.fail(f"none of {seeds_of(bug)} caught it: {bug.mistake}")


def test_essential_bugs_are_all_planted() -> None:
    names = [bug.name for bug in BUGS]
    assert set(names) >= ESSENTIAL
    assert len(set(names)) == len(names) >= len(ESSENTIAL) + 4


def test_planted_bug_is_gone_afterwards() -> None:
    rule = ResolveRule(Resolve.LOOKUP, 3600.0, has_lookup=True, settle_s=10.0, accepts_duplicates=False)
    (bug,) = (bug for bug in BUGS if bug.name == "first miss taken as final")
    with bug.planted():
        assert resolve.is_miss_final(rule, 0.0)
    assert not resolve.is_miss_final(rule, 0.0)


def test_patch_whose_text_is_not_there_is_refused() -> None:
    edit = Edit(resolve.is_miss_final, (("no such text", ""),))
    with pytest.raises(DoesNotFit, match="no such text"), edit.applied():
        pass
