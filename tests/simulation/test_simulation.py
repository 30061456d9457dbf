"""The simulator: what it finds in the engine (nothing), and that its own machinery can be believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from tests.simulation.disk import Disk, Trouble
from tests.simulation.plan import Act, Arrival, Crash, Fault, RoutePlan, Scenario, SystemPlan
from tests.simulation.scenario import KINDS, POINTS, PUT_OFF, scenario_of
from tests.simulation.shrink import shrink
from tests.simulation.story import shortest, tell
from tests.simulation.systems import SimSystem
from tests.simulation.verdict import HARD_PLACES
from tests.simulation.world import Process, World, run

PROVIDER = SystemPlan(
    name="",
    resolve="lookup",
    has_lookup=True,
    has_probe=True,
    has_void=True,
    total_s=3.0,
    horizon_s=3600.0,
    concurrency=2,
    batch=1,
    failures=2,
    in_flight=None,
    rate=None,
)
ROUTE = RoutePlan(
    name="orders",
    target="carriers",
    order="block",
    is_pushed=False,
    accepts_duplicates=False,
    on_unknown="reroute",
    max_hold_s=10.0,
    max_attempts=50,
    max_age_s=None,
    page=10,
)
REPOSITORY = Path(__file__).parents[2]
DIGESTS = (
    "import sys\n"
    "from tests.simulation.scenario import scenario_of\n"
    "from tests.simulation.world import run\n"
    "print(*(run(scenario_of(int(seed))).digest for seed in sys.argv[1:]))\n"
)


def in_a_process(*arguments: str, hash_seed: int = 0) -> subprocess.CompletedProcess[str]:
    """Another Python, and one whose sets have another order."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", [0, 100])
def test_histories_of_seeds_keep_every_promise(first: int) -> None:
    done = in_a_process("-m", "tests.simulation", "--first", str(first), "--seeds", "100", "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("100 histories")
    reached = dict(reversed(line.split(maxsplit=1)) for line in done.stdout.splitlines()[1:])
    assert [place for place in HARD_PLACES if int(reached[place]) < 2] == [], "hardly any history gets there"


@pytest.mark.parametrize("seed", [25, 1132, 4214, 5460, 5643, 14131])
def test_seed_that_once_broke_a_promise_keeps_them_all(seed: int) -> None:
    """What they showed has tests of its own: a history changes with whatever is drawn in it."""
    assert run(scenario_of(seed)).failed is None


@pytest.mark.timeout(900)
def test_months_of_traffic_and_trouble_keep_every_promise() -> None:
    done = in_a_process("-m", "tests.simulation", "--seeds", "2", "--jobs", "1", "--days", "30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60.0 days of virtual time" in done.stdout


def test_same_seed_gives_the_same_history_in_any_process() -> None:
    seeds = ["4", "10", "23"]
    here = [run(scenario_of(int(seed))).digest for seed in seeds]
    others = [in_a_process("-c", DIGESTS, *seeds, hash_seed=number) for number in (1, 2)]
    assert [other.stdout.split() for other in others] == [here, here], others[0].stderr
    assert len(set(here)) == len(seeds)


@pytest.mark.parametrize("seed", [4, 10, 23])
def test_history_without_sqlalchemys_layer_is_the_same_as_with_it(seed: int) -> None:
    scenario = scenario_of(seed)
    verdicts = [World(scenario, Disk(is_direct=is_direct)).run() for is_direct in (True, False)]
    assert verdicts[0].history == verdicts[1].history
    assert verdicts[0].failed is None


def test_seeds_bring_every_kind_of_trouble_setting_and_answer() -> None:
    """What chance never draws, nothing is proved about."""
    scenarios = [scenario_of(seed) for seed in range(300)]
    assert {it.kind for scenario in scenarios for it in scenario.faults} == {*KINDS, PUT_OFF}
    assert {it.point for scenario in scenarios for it in scenario.crashes} == set(POINTS)
    assert {it.kind for scenario in scenarios for it in scenario.outages} == set(Trouble)
    systems = [system for scenario in scenarios for system in scenario.systems]
    assert any(it.quota for it in systems)
    assert {it.resolve for it in systems} == {"natural", "key", "lookup", "none"}
    routes = [route for scenario in scenarios for route in scenario.routes]
    assert {(it.order, it.is_pushed) for it in routes} >= {
        (order, is_pushed) for order in ("block", "skip", "latest", "none") for is_pushed in (True, False)
    }
    assert {it.what for scenario in scenarios for it in scenario.acts} >= {"pin", "unpin", "open", "auto", "hurry"}


def test_provider_that_is_down_and_has_no_probe_is_not_tried_in_a_loop_while_no_record_waits_for_it() -> None:
    """Its orders go to the backup; looking for one to try it with takes three transactions each time."""
    world = World(little_traffic(down_s=1200.0), Disk())
    looks = Counter[str]()
    committed = world.committed

    def count(who: Process, name: str, result: object) -> None:
        looks[name] += 1
        committed(who, name, result)

    with mock.patch.object(world, "committed", count):
        assert world.run().failed is None
    assert 0 < looks["take_probe"] < 60, "a few for each of the twelve orders at most"


@pytest.mark.parametrize("linger_s", [0.0, 30.0])
def test_provider_without_a_probe_serves_again_soon_after_its_return_however_little_there_is_to_send(
    linger_s: float,
) -> None:
    """Each order could go to the backup at once, so the primary has to be offered one first."""
    world = World(little_traffic(down_s=250.0, linger_s=linger_s), Disk())
    assert world.run().failed is None
    served = [effect.at_s for effects in world.systems["carrier-a"].effects.values() for effect in effects]
    assert len(served) >= 6, "of nine that came after its return"


def little_traffic(*, down_s: float, linger_s: float = 5.0) -> Scenario:
    """An order every 100 s, to a group whose primary has no probe and is down in the beginning."""
    primary = replace(PROVIDER, name="carrier-a", has_probe=False)
    return Scenario(
        seed=1,
        horizon_s=1300.0,
        processes=1,
        systems=(primary, replace(PROVIDER, name="carrier-b")),
        grouped=("carrier-a", "carrier-b"),
        routes=(ROUTE,),
        arrivals=tuple(Arrival(10.0 + 100 * n, ROUTE.name, f"k{n}", 1) for n in range(12)),
        faults=(Fault(0.0, down_s, "carrier-a", "down", 1.0, answers_questions=False),),
        linger_s=linger_s,
    )


# --- a broken promise ---------------------------------------------------------------------------------------


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """A system that forgets its keys and loses answers, in the middle of much else."""
    monkeypatch.setattr(SimSystem, "remembers", lambda _self, _effect: False)
    noise = replace(ROUTE, name="noise", target="shop")
    troubles = [(at_s, system) for at_s in (9.0, 60.0) for system in ("erp", "shop")]
    return Scenario(
        seed=1,
        horizon_s=120.0,
        processes=3,
        systems=(replace(PROVIDER, name="erp", resolve="key"), replace(PROVIDER, name="shop")),
        grouped=(),
        routes=(replace(ROUTE, target="erp"), noise),
        arrivals=tuple(Arrival(10.0 + n, it.name, f"k{n}", 1) for it in (ROUTE, noise) for n in range(10)),
        faults=tuple(Fault(at_s, at_s + 30, it, "lose", 1.0, answers_questions=False) for at_s, it in troubles),
        crashes=tuple(Crash(5.0 * n, n % 3, "any", 1, 1.0) for n in range(6)),
    )


def test_failure_is_shrunk_to_the_shortest_story_of_the_same_promise(forgetful: Scenario) -> None:
    least, verdict = shortest(forgetful, tries=150)
    assert verdict.failed is not None
    assert verdict.failed.rule == "done twice"
    assert (len(least.arrivals), len(least.faults), len(least.crashes), least.processes) == (1, 1, 0, 1)
    told = tell(least, verdict)
    assert "BROKEN: done twice" in told
    assert told.count(" does it, as ") >= 2, "the story shows both effects"
    assert len(told.splitlines()) < 40


def test_shrinking_keeps_only_what_the_failure_needs() -> None:
    scenario = replace(
        scenario_of(5),
        acts=(Act(1.0, "replay"), Act(2.0, "release")),
        crashes=tuple(Crash(float(n), 0, "any", 1, 5.0) for n in range(9)),
    )
    least = shrink(scenario, lambda it: any(crash.at_s == 6.0 for crash in it.crashes))
    assert [crash.at_s for crash in least.crashes] == [6.0]
    assert (least.acts, least.faults, least.arrivals, len(least.routes), least.processes) == ((), (), (), 1, 1)


def test_shrinking_stops_after_its_number_of_tries() -> None:
    asked: list[Scenario] = []

    def fails(scenario: Scenario) -> bool:
        asked.append(scenario)
        return False

    assert shrink(scenario_of(5), fails, tries=7) == scenario_of(5)
    assert len(asked) == 7


def test_command_names_the_seeds_that_failed_and_tells_the_first_one() -> None:
    broken = (
        "import sys; from tests.simulation import __main__ as command, systems\n"
        "systems.SimSystem.remembers = lambda self, effect: False\n"
        "sys.exit(command.main(['--first', '33', '--seeds', '1', '--whole']))\n"
    )
    done = in_a_process("-c", broken)
    assert done.returncode == 1, done.stderr
    assert "done twice" in done.stdout
    assert "Seeds that failed: " in done.stdout
    assert "Again: python -m tests.simulation --seed " in done.stdout


def test_command_that_is_stopped_sums_up_what_it_has_run() -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.simulation", "--seeds", "100000", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches all of a terminal's foreground processes
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        assert started.stderr is not None
        progress = started.stderr.readline()
        os.killpg(started.pid, signal.SIGINT)
        out, errors = started.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 130, errors
    assert "of 100,000 seeds, 0 failed" in progress
    assert "Traceback" not in errors
    assert " histories, " in out
    assert "0 failed" in out
