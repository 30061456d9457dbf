"""What must hold between the parts of a hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tideover.config.cron import check_cron, check_timezone
from tideover.config.loader import check_hub

HUB = """\
name: acme
systems:
  crm:
    block: a-b/crm
    breaker: {}
    rest: {streams: {orders: {path: /orders}}}
  one:
    block: a-b/one
    resolve: lookup
    rest: {probe: {}, operations: {ship: {path: /s, lookup: {path: '/s/{key}', found: id, missing: code}}}}
  two:
    block: a-b/two
    resolve: key
    rest: {probe: {}, operations: {ship: {path: /s, idempotency_field: ref}}}
groups:
  shipping: {providers: [one, two]}
routes:
  ship:
    source: {system: crm, stream: orders}
    target: {group: shipping, operation: ship}
    key: id
    schedule: {every: 5m}
"""

LOOKUP = ", lookup: {path: '/s/{key}', found: id, missing: code}"

# what to replace, by what, and the line, key and words of the only problem or warning that follows
BROKEN = [
    ("system: crm", "system: crn", 19, "routes.ship.source.system", "did you mean `crm`?"),
    ("stream: orders", "stream: deals", 19, "routes.ship.source.stream", "the streams of crm are `orders`"),
    ("system: crm, stream: orders", "system: one, stream: x", 19, "routes.ship.source.stream",
     "there are no streams of one"),
    ("group: shipping", "group: shiping", 20, "routes.ship.target.group", "did you mean `shipping`?"),
    ("group: shipping", "system: shipping", 20, "routes.ship.target.system", "write `group: shipping`"),
    ("group: shipping", "group: one", 20, "routes.ship.target.group", "write `system: one`"),
    ("operation: ship", "operation: shp", 20, "routes.ship.target.operation", "did you mean `ship`?"),
    ("{ship: {path: /s, idem", "{send: {path: /s, idem", 20, "routes.ship.target.operation",
     "system two has no operation"),
    ("[one, two]", "[one, tow]", 16, "groups.shipping.providers[1]", "did you mean `two`?"),
    ("[one, two]", "[one, one]", 16, "groups.shipping.providers[1]", "is there twice"),
    ("[one, two]", "[one, two, shipping]", 16, "groups.shipping.providers[2]", "groups don't nest"),
    ("[one, two]", "[one, {system: tow}]", 16, "groups.shipping.providers[1].system", "did you mean `two`?"),
    ("[one, two]", "[one, {system: one, when: a}]", 16, "groups.shipping.providers[1].system", "is there twice"),
    ("[one, two]", "[{system: shipping}, one, two]", 16, "groups.shipping.providers[0].system", "groups don't nest"),
    ("[one, two]", "[one, two], failback: {dwell: 2m, max_dwell: 1m}", 16, "groups.shipping.failback.max_dwell",
     "write at least 2m"),
    ("[one, two]", "[one, two], failback: {dwell: 2h}", 16, "groups.shipping.failback.dwell",
     "`max_dwell` (1h) is shorter than `dwell`"),
    ("routes:", "  crm: {providers: [one, two]}\nroutes:", 17, "groups.crm", "also the name of a system"),
    (LOOKUP, "", 10, "systems.one.rest.operations.ship", "has no `lookup`"),
    ("found: id, ", "", 10, "systems.one.rest.operations.ship.lookup", "has no `found`"),
    (", idempotency_field: ref", "", 14, "systems.two.rest.operations.ship", "neither `idempotency_header`"),
    ("resolve: key", "resolve: key\n    key_horizon: 30s", 14, "systems.two.key_horizon", "no longer than one call"),
    ("breaker: {}", "breaker: {open_for: 10m, max_open: 5m}", 5, "systems.crm.breaker.max_open",
     "shorter than `open_for`"),
    ("rest: {streams: {orders: {path: /orders}}}", "rest: {headers: {x-api-key: k}, streams: {orders: {path: /o}}}", 6,
     "systems.crm.rest.headers.x-api-key", "secrets belong in the system's block"),
    ("path: /orders", "path: '/o/{key}'", 6, "systems.crm.rest.streams.orders.path", "about no single record"),
    ("idempotency_field: ref", "idempotency_field: ref, bulk: {path: '/b/{id}', size: 2}", 14,
     "systems.two.rest.operations.ship.bulk.path", "many records"),
    ("key: id", "key: id\n    retry: {base: 10m}", 22, "routes.ship.retry.base",
     "`base` (10m) is longer than `cap` (5m)"),
    ("key: id", "key: id\n    retry: {cap: 500ms}", 22, "routes.ship.retry.cap", "longer than `cap` (500ms)"),
    ("key: id", "key: id\n    rpo: 1m", 22, "routes.ship.rpo", "reads its source every 5m"),
    ("every: 5m", "cron: '0 25 * * *'", 22, "routes.ship.schedule.cron", 'has no hour "25"'),
    ("every: 5m", "cron: '0 5 * * *', timezone: Europe/Amsterdm", 22, "routes.ship.schedule.timezone",
     "Europe/Amsterdam"),
    ("{group: shipping, operation: ship}\n", "{system: two, operation: ship}\n    rto: 4s\n", 21, "routes.ship.rto",
     "waits 5s before it probes"),
]  # fmt: skip
DOUBTFUL = [
    ("groups:", "  lone: {block: a-b/c}\ngroups:", 15, "systems.lone", "no route uses this system"),
    ("routes:", "  spare: {providers: [two, one]}\nroutes:", 17, "groups.spare", "no route delivers to this group"),
    ("[one, two]", "[{system: one, when: a}, {system: two, when: b}]", 16, "groups.shipping.providers",
     "leave `when` out of the last one"),
    ("key: id", "key: id\n    max_hold: 5m", 22, "routes.ship.max_hold", "has no effect without `on_unknown: reroute`"),
    ("key: id", "key: id\n    rto: 29s", 22, "routes.ship.rto", "shorten their `timeouts.read`"),
    (", missing: code", "", 10, "systems.one.rest.operations.ship.lookup", "a gateway's too"),
    ("key: id", "key: id\n    on_unknown: reroute", 22, "routes.ship.on_unknown",
     'operation "ship" of one, two has no `void`'),
    ("rest: {streams", "rest: {headers: {X-A: '${A}'}, streams", 6, "systems.crm.rest.headers.X-A",
     "nothing fills it in"),
    ("idempotency_field: ref", "idempotency_header: K, bulk: {path: /b, size: 2}", 14,
     "systems.two.rest.operations.ship.bulk", "only one idempotency key"),
    ("routes:",
     "routes:\n  b: {source: {system: crm, stream: orders}, target: {system: one, operation: ship}, key: id,\n"
     "    on_unknown: reroute}", 19, "routes.b.on_unknown", "has no effect"),
    ("routes:",
     "  \nroutes:\n  b: {source: {system: crm, stream: orders}, target: {system: n, operation: o}, key: id,\n"
     "    order: none}", 20, "routes.b.order", "an older version"),
]  # fmt: skip


def check(tmp_path: Path, old: str, new: str):  # type: ignore[no-untyped-def]
    assert old in HUB
    text = HUB.replace(old, new, 1)
    if "system: n," in text:
        natural = "  n: {block: a-b/n, resolve: natural, rest: {probe: {}, operations: {o: {path: /o}}}}\n"
        text = text.replace("  \nroutes:", "routes:").replace("groups:\n", natural + "groups:\n")
    path = tmp_path / "hub.yaml"
    path.write_text(text, encoding="utf-8")
    return check_hub(path)


def test_hub_when_whole_has_no_problem_and_no_warning(tmp_path: Path) -> None:
    report = check(tmp_path, "acme", "acme")
    assert (report.problems, report.warnings) == ([], [])


@pytest.mark.parametrize(("old", "new", "line", "key", "words"), BROKEN)
def test_relation_when_broken_is_the_one_problem(
    tmp_path: Path, old: str, new: str, line: int, key: str, words: str
) -> None:
    report = check(tmp_path, old, new)
    assert [(p.line, p.key) for p in report.problems] == [(line, key)]
    assert words in str(report.problems[0])
    assert report.hub is None


PROBELESS = ("probe: {}, operations: {ship: {path: /s, idem", "operations: {ship: {path: /s, idem")


def test_target_without_probe_or_a_way_to_resolve_is_doubtful(tmp_path: Path) -> None:
    report = check(tmp_path, *PROBELESS)
    assert [(p.line, p.key) for p in report.warnings] == [(11, "systems.two")]
    assert "rest.probe" in str(report.warnings[0])
    report = check(tmp_path, "resolve: key", "resolve: none")
    assert [(p.line, p.key) for p in report.warnings] == [(11, "systems.two")]
    assert "parked for a person" in str(report.warnings[0])


REROUTE = ("key: id", "key: id\n    on_unknown: reroute")
UNRESOLVING = ("resolve: key", "resolve: none")
VOIDS = [("path: /s, lookup", "path: /s, void: {path: '/v/{key}'}, lookup"),
         ("idempotency_field: ref", "idempotency_field: ref, void: {path: '/v/{key}'}")]  # fmt: skip
SHARE = ("[one, two]", "[one, two], live_share: 1%")
# several replacements, a key, and words of its warning; None where there is none
FAILOVER = [
    ([SHARE, UNRESOLVING], "groups.shipping.live_share", "has no effect for two"),
    ([SHARE], "groups.shipping.live_share", None),
    ([UNRESOLVING], "groups.shipping.live_share", None),
    ([("[one, two]", "[one, two], live_share: 0%"), UNRESOLVING], "groups.shipping.live_share", None),
    ([("[one, two]", "[two, one], live_share: 1%"), UNRESOLVING], "groups.shipping.live_share", None),
    ([("[one, two]", "[one, two, crm], live_share: 26%"), ("breaker: {}", "resolve: natural")],
     "groups.shipping.live_share", "leaves one less than half"),
    ([("[one, two]", "[one, two], live_share: 50%")], "groups.shipping.live_share", None),
    ([("[one, two]", "[{system: one, when: a}, two]")], "groups.shipping.providers", None),
    ([REROUTE, *VOIDS], "routes.ship.on_unknown", None),
    ([REROUTE, VOIDS[0]], "routes.ship.on_unknown", 'operation "ship" of two has no `void`'),
    ([REROUTE, *VOIDS, ("resolve: lookup", "resolve: none")], "routes.ship.on_unknown",
     "no provider of shipping can be asked"),
    ([REROUTE, *VOIDS, ("resolve: lookup", "resolve: natural"), (LOOKUP, "")],
     "routes.ship.on_unknown", "describe the `lookup`"),
    (VOIDS, "routes.ship.on_unknown", None),
    ([REROUTE, ("key: id", "key: id\n    max_hold: 5m")], "routes.ship.max_hold", None),
    ([("key: id", "key: id\n    rto: 30s")], "routes.ship.rto", None),
    ([("key: id", "key: id\n    rto: 9s"), ("resolve: key", "resolve: key\n    timeouts: {read: 8s}")],
     "routes.ship.rto", None),
]  # fmt: skip


@pytest.mark.parametrize(("replacements", "key", "words"), FAILOVER)
def test_failover_when_doubtful_is_a_warning_that_says_why(
    tmp_path: Path, replacements: list[tuple[str, str]], key: str, words: str | None
) -> None:
    text = HUB
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "hub.yaml"
    path.write_text(text, encoding="utf-8")
    found = [str(p) for p in check_hub(path).warnings if p.key == key]
    assert len(found) == (words is not None)
    assert all((words or "") in text and text.endswith(")") for text in found)


@pytest.mark.parametrize(("old", "new", "line", "key", "words"), DOUBTFUL)
def test_relation_when_doubtful_is_a_warning_and_the_hub_loads(
    tmp_path: Path, old: str, new: str, line: int, key: str, words: str
) -> None:
    report = check(tmp_path, old, new)
    assert report.problems == []
    assert [(p.line, p.key) for p in report.warnings] == [(line, key)]
    assert words in str(report.warnings[0])
    assert report.hub is not None


CRONS = [
    "* * * * *",
    "*/5 0-6,22 1 jan,7 mon-fri",
    "0 6 l * *",
    "0 0 29 2 *",
    "15-45/15 * * * sun",
    "0 6 * * 5-7",
    "0 0 * * fri-sun",
    "0 0 31 2,3 *",
    "0 0 1,31 4 *",
    "0 0 */30 2 *",
    "0 0 30,l apr *",
    "0 0 l 2 1",
    "0 0 29-31 feb *",
    "0 0 * 2 1",
]
NEVER = [
    "0 0 30 2 *",
    "0 0 31 4 *",
    "0 0 30 feb *",
    "0 0 30,31 2 *",
    "0 0 30-31 feb *",
    "0 0 31 4,6 *",
    "0 0 31 sep,nov *",
    "0 0 31 4-6/2 *",
    "0 0 30-31/1 2 *",
    "0 0 31,l 4 *",
    "0 0 30 2 1",
    "0 0 30 2 */1",
    "0 0 30 2 sun-sat",
]


@pytest.mark.parametrize("expression", CRONS)
def test_cron_when_sound_has_no_fault(expression: str) -> None:
    assert check_cron(expression) is None


def test_cron_when_sound_is_sound_for_prefect_too() -> None:
    from prefect.client.schemas.schedules import CronSchedule

    assert [CronSchedule(cron=expression).cron for expression in CRONS] == CRONS


def test_cron_when_sound_has_a_next_time_for_prefect() -> None:
    from prefect.server.schemas.schedules import CronSchedule

    assert all(asyncio.run(CronSchedule(cron=expression).get_dates(1)) for expression in CRONS)


@pytest.mark.parametrize("expression", NEVER)
def test_cron_when_its_day_never_comes_is_refused_as_prefect_would_fail_on_it(expression: str) -> None:
    from prefect.server.schemas.schedules import CronSchedule

    with pytest.raises(ValueError, match="failed to find next date"):
        asyncio.run(CronSchedule(cron=expression).get_dates(1))
    fault = check_cron(expression)
    assert fault is not None
    assert fault[0].startswith("never comes")


def test_cron_when_only_its_weekday_comes_is_mended_by_a_star() -> None:
    fault = check_cron("0 0 30 2 1")
    assert fault is not None
    assert "for the weekdays alone, write `*` for the day of the month" in fault[1]


@pytest.mark.parametrize("expression", ["0 0 31-31 2 *", "5-5 * * * *", "0 0 * feb-2 *", "0 0 * * sun-sun"])
def test_cron_when_a_range_has_one_value_is_refused_as_prefect_takes_all(expression: str) -> None:
    fault = check_cron(expression)
    assert fault is not None
    assert fault[0].startswith("has a range of one")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "has 0 fields"), ("* * * *", "has 4 fields"), ("0 0 * * * *", "has 6 fields"), ("@daily", "nickname"),
        ("60 * * * *", 'minute "60"'), ("* 24 * * *", 'hour "24"'), ("* * 0 * *", 'day of the month "0"'),
        ("* * * 13 *", 'month "13"'), ("* * * * 8", 'day of the week "8"'), ("5-1 * * * *", 'minute "5-1"'),
        ("*/0 * * * *", 'minute "*/0"'), ("a * * * *", 'minute "a"'), ("* * * foo *", 'month "foo"'),
        ("1,, * * * *", 'minute ""'), ("5-5 * * * *", "a range of one minute"),
        ("* * * * ?", "week"),
    ],
)  # fmt: skip
def test_cron_when_unsound_says_which_field(expression: str, words: str) -> None:
    fault = check_cron(expression)
    assert fault is not None
    assert words in fault[0]
    assert fault[1]


@pytest.mark.parametrize(
    "name", ["", "Amsterdam/Europe", "../../etc/passwd", "/etc/passwd", "Europe", "x" * 5000, "a\0b"]
)
def test_timezone_when_there_is_none_is_refused(name: str) -> None:
    assert check_timezone(name) is not None


@pytest.mark.parametrize("name", ["UTC", "Europe/Amsterdam", "America/Argentina/Buenos_Aires"])
def test_timezone_when_it_exists_is_taken(name: str) -> None:
    assert check_timezone(name) is None
