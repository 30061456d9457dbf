"""From a file to a hub: half-valid files, and the line, key and words of every problem in them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tideover.config.loader import Report, check_hub, load_hub, staging_path
from tideover.config.models import Cron, Every, Failback, Group, Mapping, Provider
from tideover.config.units import Rate
from tideover.errors import ConfigError
from tideover.model import Resolve

GOOD = """\
name: acme
systems:
  crm:
    block: tideover-bearer/crm
    rest:
      streams:
        orders: {path: /orders}
  erp:
    block: tideover-bearer/erp
    rest:
      operations:
        create:
          path: /invoices
routes:
  orders-to-erp:
    source: {system: crm, stream: orders}
    target: {system: erp, operation: create}
    key: id
"""


def written(folder: Path, text: str, name: str = "hub.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def check(folder: Path, text: str, **presets: str) -> Report:
    shelf = folder / "presets"
    shelf.mkdir(exist_ok=True)
    for name, preset in presets.items():
        written(shelf, preset, f"{name}.yaml")
    return check_hub(written(folder, text), presets=shelf)


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_hub_when_sound_is_loaded_without_a_problem(tmp_path: Path) -> None:
    report = check(tmp_path, GOOD)
    assert report.problems == []
    assert {p.key for p in report.warnings} == {"systems.erp"}  # it says neither `probe` nor `resolve`
    assert report.hub is not None
    assert report.hub.routes["orders-to-erp"].target.name == "erp"
    assert {system.resolve for system in report.hub.systems.values()} == {Resolve.NONE}


STREAM = "orders: {path: /orders}"
KEY = "    key: id\n"

# what to replace in the good file, by what, and the line, key and words of the problem that follows
HALF_VALID = [
    ("name: acme", "name: Acme Hub", 1, "name", 'the text "Acme Hub" is no name'),
    ("name: acme\n", "", 1, "name", "is missing"),
    ("name: acme", "name: acme\nrouts: {}", 2, "routs", "did you mean `routes`?"),
    ("name: acme", "name: acme\nrto: 5m", 2, "rto", "it is a key of a route"),
    ("name: acme", "name:", 1, "name", "is empty"),
    ("name: acme", "name: [a]", 1, "name", "needs text, but has a list"),
    ("name: acme", "name: 5", 1, "name", "needs text, but has the number 5"),
    ("name: acme", "name: acme\nstaging: {}", 2, "staging", "needs exactly one of `sqlite`, `env` and `block`"),
    ("name: acme", "name: acme\nstaging: {env: 'postgresql://u:pw@h/d'}", 2, "staging.env",
     "a text is no name of an env"),
    ("  crm:\n", "  Crm_1:\n", 3, "systems.Crm_1", "is no name"),
    ("    block: tideover-bearer/crm\n", "", 3, "systems.crm.block", "is missing (The Prefect block"),
    ("tideover-bearer/crm", "crm", 4, "systems.crm.block", "is no block"),
    ("tideover-bearer/erp\n", "a-b/c\n    resolve: lookp\n", 10, "systems.erp.resolve", "did you mean `lookup`?"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {concurrency: '5'}\n", 10, "systems.erp.limits.concurrency",
     "quotes"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {concurrency: 0}\n", 10, "systems.erp.limits.concurrency",
     "at least 1"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {concurrency: 2.5}\n", 10, "systems.erp.limits.concurrency",
     "whole number"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {record: 10}\n", 10, "systems.erp.limits.record", "is not a size"),
    ("tideover-bearer/erp\n", "a-b/c\n    timeouts: {total: 1s}\n", 10, "systems.erp.timeouts", "`total` is shorter"),
    (STREAM, "orders: {path: orders}", 7, "systems.crm.rest.streams.orders.path", "is no path"),
    (STREAM, "orders: {path: '/o/{order}'}", 7, "systems.crm.rest.streams.orders.path",
     "has {order}, which nothing fills"),
    (STREAM, "orders: {path: /o, records: a-b}", 7, "systems.crm.rest.streams.orders.records", "no minus"),
    (STREAM, "orders: {path: /o, pagination: {}}", 7, "systems.crm.rest.streams.orders.pagination", "lacks `type`"),
    (STREAM, "orders: {path: /o, pagination: {type: curser}}", 7, "systems.crm.rest.streams.orders.pagination",
     "did you mean `cursor`?"),
    (STREAM, "orders: {path: /o, pagination: {type: cursor}}", 7, "systems.crm.rest.streams.orders.pagination.next",
     "is missing (Where the token stands"),
    (STREAM, "orders: {path: /o, pagination: {type: link, next: a}}", 7,
     "systems.crm.rest.streams.orders.pagination.next",
     "is no key of a link pagination"),
    (STREAM, "orders: {path: /o, pagination: page}", 7, "systems.crm.rest.streams.orders.pagination",
     "needs a mapping"),
    (STREAM, "orders: {path: /o, params: {page: 1}}", 7, "systems.crm.rest.streams.orders.params.page", "needs text"),
    ("path: /invoices", "path: /x\n          method: post", 14, "systems.erp.rest.operations.create.method", "`POST`?"),
    ("path: /invoices", "path: /x\n          bulk: {path: /b, size: 1}", 14,
     "systems.erp.rest.operations.create.bulk.size", "needs at least 2, but has the number 1"),
    ("path: /invoices", "path: /x\n          bulk: {path: /b, size: 9, match: key}", 14,
     "systems.erp.rest.operations.create.bulk", "needs `result_key`"),
    ("      operations:", "      errors: [{status: 99, outcome: rejected}]\n      operations:", 11,
     "systems.erp.rest.errors[0].status", "needs at least 100"),
    ("routes:", "groups: {shipping: {providers: [crm]}}\nroutes:", 14, "groups.shipping.providers",
     "at least 2 entries"),
    ("routes:", "groups: {g: {providers: [crm, Erp_1]}}\nroutes:", 14, "groups.g.providers[1]",
     'the text "Erp_1" is no name'),
    ("routes:", "groups: {g: {providers: [crm, {system: Erp_1}]}}\nroutes:", 14, "groups.g.providers[1].system",
     'the text "Erp_1" is no name'),
    ("routes:", "groups: {g: {providers: [crm, 5]}}\nroutes:", 14, "groups.g.providers[1]",
     "the number 5 is no provider (write the name of a system, or `system:`"),
    ("routes:", "groups: {g: {providers: [crm, [erp]]}}\nroutes:", 14, "groups.g.providers[1]", "is no provider"),
    ("routes:", "groups: {g: {providers: [crm, null]}}\nroutes:", 14, "groups.g.providers[1]", "is empty"),
    ("routes:", "groups: {g: {providers: crm}}\nroutes:", 14, "groups.g.providers", "needs a list"),
    ("routes:", "groups: {g: {providers: [crm, {when: a}]}}\nroutes:", 14, "groups.g.providers[1].system",
     "is missing"),
    ("routes:", "groups: {g: {providers: [crm, {systm: erp}]}}\nroutes:", 14, "groups.g.providers[1].systm",
     "is no key of a provider (did you mean `system`?"),
    ("routes:", "groups: {g: {providers: [crm, {system: erp, when: 'a = b'}]}}\nroutes:", 14,
     "groups.g.providers[1].when", "compare with `==`"),
    ("routes:", "groups: {g: {providers: [crm, {system: erp, mapping: {fields: {a: b-c}}}]}}\nroutes:", 14,
     "groups.g.providers[1].mapping.fields.a", "no minus"),
    ("routes:", "groups: {g: {providers: [crm, erp], live_share: 2}}\nroutes:", 14, "groups.g.live_share",
     "the number 2 is not a share (write a percentage from 0% to 50%"),
    ("routes:", "groups: {g: {providers: [crm, erp], live_share: 60%}}\nroutes:", 14, "groups.g.live_share",
     'the text "60%" is not a share'),
    ("routes:", "groups: {g: {providers: [crm, erp], max_pause: 60}}\nroutes:", 14, "groups.g.max_pause",
     "is not a duration"),
    ("routes:", "groups: {g: {providers: [crm, erp], failback: {canary: 0}}}\nroutes:", 14, "groups.g.failback.canary",
     "needs at least 1"),
    ("routes:", "groups: {g: {providers: [crm, erp], failback: {canary: 101}}}\nroutes:", 14,
     "groups.g.failback.canary", "needs at most 100"),
    ("routes:", "groups: {g: {providers: [crm, erp], failback: {dwel: 1m}}}\nroutes:", 14, "groups.g.failback.dwel",
     "is no key of `failback` (did you mean `dwell`?"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {rate: 200}\n", 10, "systems.erp.limits.rate",
     "the number 200 is not a rate (write calls and window"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {rate: 5/60d}\n", 10, "systems.erp.limits.rate",
     "longer than 31 days"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {rate: []}\n", 10, "systems.erp.limits.rate",
     "holds 0 rates (write one, or a list of up to 10"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {quota: {records: 5, resets: '7:00'}}\n", 10,
     "systems.erp.limits.quota.resets", "is not a time of day (write hours and minutes"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {quota: {records: 5, timezone: Europe/Pariss}}\n", 10,
     "systems.erp.limits.quota.timezone", "is no time zone (did you mean `Europe/Paris`?"),
    (KEY, KEY + "    priority: 0\n", 19, "routes.orders-to-erp.priority",
     "the number 0 is no priority (write 1 (first) to 5 (last)"),
    (KEY, KEY + "    priority: 6\n", 19, "routes.orders-to-erp.priority", "the number 6 is no priority"),
    (KEY, KEY + "    priority: '2'\n", 19, "routes.orders-to-erp.priority", "without quotes"),
    (KEY, KEY + "    priority: order-rank\n", 19, "routes.orders-to-erp.priority", "no minus"),
    (KEY, "", 15, "routes.orders-to-erp.key", "is missing (The business key"),
    (KEY, "    key: '{{ id }}'\n", 18, "routes.orders-to-erp.key", "there is no template engine"),
    (KEY, KEY + "    shedule: {every: 5m}\n", 19, "routes.orders-to-erp.shedule", "did you mean `schedule`?"),
    (KEY, KEY + "    schedule: {every: 300}\n", 19, "routes.orders-to-erp.schedule.every", "300 is not a duration"),
    (KEY, KEY + "    schedule: {every: 0s}\n", 19, "routes.orders-to-erp.schedule.every",
     'needs at least 1s, but has the text "0s" (write 1s or more)'),
    ("name: acme", "name: acme\ndeliver: {every: 2s}", 2, "deliver.every",
     "needs at least 10s, but has the text \"2s\" (write 10s or more)"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {record: 0B}\n", 10, "systems.erp.limits.record",
     "needs more than 0B"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {concurrency: ''}\n", 10, "systems.erp.limits.concurrency",
     "(write it without quotes, as in `5`)"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {concurrency: [5]}\n", 10, "systems.erp.limits.concurrency",
     "needs a whole number, but has a list (write it without quotes, as in `5`)"),
    ("tideover-bearer/erp\n", "a-b/c\n    limits: {concurrency: {a: 5}}\n", 10, "systems.erp.limits.concurrency",
     "(write it without quotes, as in `5`)"),
    (KEY, KEY + "    accepts_duplicates: ''\n", 19, "routes.orders-to-erp.accepts_duplicates", "(write one of them"),
    (KEY, KEY + "    accepts_duplicates: [a]\n", 19, "routes.orders-to-erp.accepts_duplicates", "(write one of them"),
    *((KEY, f"    key: {written}\n", 18, "routes.orders-to-erp.key", f"always gives {kind}") for written, kind in (
        ("'[id, number]'", "a list"), ("'a.[b, c]'", "a list"), ("'items[*].id'", "a list"),
        ("'keys(@)'", "a list"), ("'{a: id}'", "a mapping"), ("'a == b'", "`true` or `false`"),
    )),
    (KEY, KEY + "    schedule: {}\n", 19, "routes.orders-to-erp.schedule", "has neither `every` nor `cron`"),
    (KEY, KEY + "    schedule: {every: 5m, cron: '* * * * *'}\n", 19, "routes.orders-to-erp.schedule", "has both"),
    (KEY, KEY + "    schedule: {cron: '0 0 * * *', tz: UTC}\n", 19, "routes.orders-to-erp.schedule.tz", "`timezone`"),
    (KEY, KEY + "    schedule: 5m\n", 19, "routes.orders-to-erp.schedule", "needs a mapping"),
    (KEY, KEY + "    accepts_duplicates: NO\n", 19, "routes.orders-to-erp.accepts_duplicates", "write `false`"),
    (KEY, KEY + "    accepts_duplicates: on\n", 19, "routes.orders-to-erp.accepts_duplicates", "write `true`"),
    (KEY, KEY + "    order: newest\n", 19, "routes.orders-to-erp.order", "is not one of `block`, `skip`"),
    (KEY, KEY + "    mapping: {fields: {a: b}, function: m:f}\n", 19, "routes.orders-to-erp.mapping", "keep one"),
    (KEY, KEY + "    mapping: {fields: {a: 'uper(b)'}}\n", 19, "routes.orders-to-erp.mapping.fields.a", "calls `uper`"),
    (KEY, KEY + "    mapping: {function: m.f}\n", 19, "routes.orders-to-erp.mapping.function", "is no function"),
    (KEY, KEY + "    mapping: {fields: {a: b}, required: [c]}\n", 19, "routes.orders-to-erp.mapping",
     "`required` names c"),
    ("stream: orders}", "stream: orders, rto: 5m}", 16, "routes.orders-to-erp.source.rto",
     "it belongs further out, in routes.orders-to-erp"),
    ("{system: erp, operation", "{operation", 17, "routes.orders-to-erp.target", "needs either `system` or `group`"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "key", "words"), HALF_VALID)
def test_hub_when_half_valid_names_the_place_and_the_mend(
    tmp_path: Path, old: str, new: str, line: int, key: str, words: str
) -> None:
    problems = check(tmp_path, replaced(old, new)).problems
    first = next(p for p in problems if p.key == key)
    assert first.line == line
    assert words in str(first)
    assert "Input should" not in str(first)


def test_hub_when_much_is_wrong_names_it_all_in_file_order(tmp_path: Path) -> None:
    text = GOOD.replace("name: acme", "name: Acme").replace("path: /orders", "path: orders")
    text = text.replace("stream: orders", "stream: order").replace("operation: create", "operation: creat")
    text += "    rto: 1s\n    schedule: {cron: daily}\n"
    with pytest.raises(ConfigError) as caught:
        load_hub(written(tmp_path, text))
    keys = [p.key.split("orders-to-erp.")[-1] for p in caught.value.problems]
    assert keys == [
        "name",
        "systems.crm.rest.streams.orders.path",
        "source.stream",
        "target.operation",
        "rto",
        "schedule.cron",
    ]
    assert all(p.column > 1 or p.key == "name" for p in caught.value.problems)


def test_problem_when_it_may_follow_from_another_is_not_reported(tmp_path: Path) -> None:
    problems = check(tmp_path, replaced(STREAM, "orders: {path: orders}")).problems
    assert [p.key for p in problems] == ["systems.crm.rest.streams.orders.path"]  # and not: there is no such stream


@pytest.mark.parametrize(
    "secret", ["sk_live_51H8xTestKey", "postgresql://u:hunter2@db/x", "Bearer abcdefghijklmnopqrst"]
)
def test_secret_when_in_the_wrong_place_is_never_shown(tmp_path: Path, secret: str) -> None:
    text = replaced("tideover-bearer/erp", f"'{secret}'").replace("name: acme", f"name: '{secret}'")
    text = text.replace("stream: orders}", f"stream: '{secret}'}}").replace(KEY, KEY + f"    order: '{secret}'\n")
    text += f"    password: '{secret}'\n"
    report = check(tmp_path, text)
    assert len(report.problems) == 5
    assert secret not in "\n".join(map(str, report.problems))


def test_schedule_when_valid_is_the_kind_that_was_written(tmp_path: Path) -> None:
    def schedule(text: str) -> object:
        return load_hub(written(tmp_path, GOOD + f"    schedule: {text}\n")).routes["orders-to-erp"].schedule

    assert schedule("{every: 5m}") == Every(every="5m")  # type: ignore[arg-type]
    assert schedule("{cron: '0 6 * * 1-5'}") == Cron(cron="0 6 * * 1-5")


GROUP = """\
groups:
  both:
    providers:
      - crm
      - system: erp
        when: "weight_kg <= `30`"
        mapping: {fields: {reference: order_id}}
    live_share: 0.5%
    failback: {dwell: 2m, max_dwell: 30m, canary: 5, ramp: 0s}
    max_pause: 10s
routes:
"""


def test_group_when_providers_are_short_and_long_has_them_in_order(tmp_path: Path) -> None:
    hub = load_hub(written(tmp_path, replaced("routes:\n", GROUP)))
    long = Provider(system="erp", when="weight_kg <= `30`", mapping=Mapping(fields={"reference": "order_id"}))
    assert hub.groups["both"].providers == [Provider(system="crm"), long]
    assert hub.groups["both"].systems == hub.systems_of("both") == ["crm", "erp"]
    assert hub.groups["both"].live_share == pytest.approx(0.005)
    assert hub.groups["both"].failback == Failback(dwell="2m", max_dwell="30m", canary=5, ramp="0s")  # type: ignore[arg-type]
    assert hub.groups["both"].max_pause == 10.0


def test_group_when_it_names_only_providers_has_the_defaults(tmp_path: Path) -> None:
    hub = load_hub(written(tmp_path, replaced("routes:\n", "groups: {both: {providers: [crm, erp]}}\nroutes:\n")))
    assert hub.groups["both"] == Group(providers=["crm", "erp"])  # type: ignore[list-item]
    both = hub.groups["both"]
    assert (both.live_share, both.max_pause) == (0.02, 60.0)
    assert (both.failback.dwell, both.failback.max_dwell, both.failback.canary, both.failback.ramp) == (60, 3600, 3, 60)


@pytest.mark.parametrize(("text", "priority"), [("", 3), ("    priority: 2\n", 2), ("    priority: rank\n", "rank")])
def test_priority_when_written_is_a_rank_or_an_expression(tmp_path: Path, text: str, priority: int | str) -> None:
    assert load_hub(written(tmp_path, GOOD + text)).routes["orders-to-erp"].priority == priority


def test_rate_when_written_is_calls_and_window(tmp_path: Path) -> None:
    text = replaced("tideover-bearer/erp\n", "tideover-bearer/erp\n    limits: {rate: 200/1m}\n")
    hub = load_hub(written(tmp_path, text))
    assert hub.systems["erp"].limits.rate == (Rate(calls=200, window_s=60.0),)
    assert hub.systems["crm"].limits.rate is None


PRESET = """\
rest:
  headers: {Accept: application/json, X-Version: "1"}
  operations:
    create: {path: /v1/invoices, idempotency_header: Idempotency-Key}
    void: {path: /v1/void}
  errors:
    - {status: 409, outcome: accepted}
  reset_headers: [X-Reset]
resolve: key
key_horizon: 12h
timeouts: {connect: 2s, total: 90s}
"""
WITH_PRESET = GOOD.replace(
    "    block: tideover-bearer/erp\n    rest:\n", "    preset: acc\n    block: a-b/c\n    rest:\n"
)


def test_preset_when_laid_under_a_system_gives_what_the_system_lacks(tmp_path: Path) -> None:
    text = WITH_PRESET.replace(
        "    rest:\n      operations:\n        create:\n          path: /invoices\n",
        """\
    timeouts: {connect: 9s}
    rest:
      headers: {X-Version: "2"}
      operations: {create: {path: /mine}}
      errors: [{status: 500, outcome: rejected}]
      reset_headers: [X-Mine]
""",
    )
    hub = check(tmp_path, text, acc=PRESET).hub
    assert hub is not None
    erp = hub.systems["erp"]
    assert erp.rest.headers == {"Accept": "application/json", "X-Version": "2"}
    assert erp.rest.operations["create"].path == "/mine"
    assert erp.rest.operations["create"].idempotency_header == "Idempotency-Key"
    assert "void" in erp.rest.operations
    assert [rule.status for rule in erp.rest.errors] == [500, 409]
    assert erp.rest.reset_headers == ["X-Mine"]
    assert (erp.resolve, erp.key_horizon) == (Resolve.KEY, 43_200.0)
    assert (erp.timeouts.connect, erp.timeouts.total) == (9.0, 90.0)


def test_preset_when_the_system_says_otherwise_gives_way(tmp_path: Path) -> None:
    text = WITH_PRESET.replace("    preset: acc\n", "    preset: acc\n    resolve: natural\n")
    hub = check(tmp_path, text, acc=PRESET).hub
    assert hub is not None
    assert hub.systems["erp"].resolve is Resolve.NATURAL


def test_preset_when_wrong_is_blamed_in_its_own_file_once(tmp_path: Path) -> None:
    text = WITH_PRESET.replace("  erp:\n", "  other: {preset: acc, block: a-b/d}\n  erp:\n")
    text = text.replace(
        "    rest:\n      operations:", "    rest:\n      errors: [{outcome: accepted}]\n      operations:"
    )
    report = check(tmp_path, text, acc=PRESET.replace("status: 409", "status: 9") + "block: a-b/c\n")
    preset = str(tmp_path / "presets" / "acc.yaml")
    found = [(p.file, p.line, p.key) for p in report.problems]
    assert found == [(preset, 7, "rest.errors[0].status"), (preset, 12, "block")]
    assert "no key of a preset" in report.problems[1].what


def test_preset_when_it_is_no_yaml_hides_no_other_problem(tmp_path: Path) -> None:
    report = check(tmp_path, WITH_PRESET.replace("stream: orders", "stream: order"), acc="a: &x 1\n")
    assert [p.key for p in report.problems] == ["routes.orders-to-erp.source.stream", ""]
    assert report.problems[1].file.endswith("acc.yaml")


@pytest.mark.parametrize(("name", "words"), [("ac", "did you mean `acc`?"), ("zzz", "the presets are acc")])
def test_preset_when_missing_names_those_there_are(tmp_path: Path, name: str, words: str) -> None:
    (found,) = check(tmp_path, WITH_PRESET.replace("preset: acc", f"preset: {name}"), acc=PRESET).problems
    assert (found.line, found.key) == (9, "systems.erp.preset")
    assert words in found.mend


@pytest.mark.parametrize("name", ["../acc", "5", "[a]", "''"])
def test_preset_when_no_name_is_refused_unread(tmp_path: Path, name: str) -> None:
    problems = check(tmp_path, WITH_PRESET.replace("preset: acc", f"preset: {name}"), acc=PRESET).problems
    assert "systems.erp.preset" in {p.key for p in problems}


def test_staging_path_when_relative_counts_from_the_file(tmp_path: Path) -> None:
    hub_file = written(tmp_path, GOOD)
    assert staging_path(load_hub(hub_file), hub_file) == tmp_path.resolve() / "tideover.db"
    away = written(tmp_path, GOOD.replace("name: acme", "name: acme\nstaging: {sqlite: /var/x.db}"))
    assert staging_path(load_hub(away), away) == Path("/var/x.db")
    elsewhere = written(tmp_path, GOOD.replace("name: acme", "name: acme\nstaging: {env: DB_URL}"))
    assert staging_path(load_hub(elsewhere), elsewhere) is None


def test_file_when_missing_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_hub(tmp_path / "hub.yaml")
    assert check_hub(tmp_path / "hub.yaml").hub is None
