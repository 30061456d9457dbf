"""A hub on disk for the command line: its file, its SQLite database, and a few things that happened to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tests.fakes import Answer, FakeSystem
from tests.hubs import running
from tideover.cli.app import app
from tideover.config.loader import load_hub
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.model import HUNG, Accepted, JsonObject, Outcome, Outgoing, Rejected, Unknown

ORDERS = {
    "source": {"system": "crm", "stream": "orders"},
    "target": {"system": "erp", "operation": "create-order"},
    "mapping": {"fields": {"number": "number", "total": "total"}, "required": ["total"]},
    "key": "number",
    "rto": "1h",
    "rpo": "5m",
}
HUB = {
    "name": "acme",
    "staging": {"sqlite": "tideover.db"},
    "systems": {
        "crm": {"preset": "twin-crm", "block": "tideover-bearer/crm"},
        "erp": {"preset": "twin-erp", "block": "tideover-oauth2-client/erp"},
    },
    "routes": {"orders": ORDERS},
}


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # whatever the command wrote
        return json.loads(self.out)


def tideover(*arguments: object, feed: str | None = None, prefect_home: Path | None = None) -> Ran:
    """Run `tideover <arguments>` in this process. With `prefect_home`, no Prefect that is set up here hears of it."""
    env = {"PREFECT_API_URL": None, "PREFECT_HOME": str(prefect_home)} if prefect_home is not None else {}
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=feed, env=env, prog_name="tideover")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


@dataclass(frozen=True)
class CliHub:
    """A hub whose file is `file`; `run` gives it to a command."""

    file: Path

    def run(self, *arguments: object, feed: str | None = None) -> Ran:
        return tideover("--hub", self.file, *arguments, feed=feed, prefect_home=self.file.parent / "prefect")

    def json(self, *arguments: object) -> Any:  # whatever the command wrote
        """Run a command with --json; what it wrote, having ended well."""
        ran = self.run(*arguments, "--json")
        assert ran.code == 0, ran.err
        return ran.json

    def happen(
        self, records: Sequence[JsonObject], answer: Answer = lambda record: Accepted(f"SO-{record.key}")
    ) -> None:
        """Stage records and deliver them to an ERP that answers so."""
        asyncio.run(self._happen(records, answer))

    async def _happen(self, records: Sequence[JsonObject], answer: Answer) -> None:
        fakes = {"crm": FakeSystem(), "erp": FakeSystem(answer)}
        url = f"sqlite:///{self.file.parent / 'tideover.db'}"
        async with running(load_hub(self.file), url, fakes) as rt:
            await intake.stage_records(rt, "orders", records)
            await Delivery(rt, "erp").run()


def make_hub(folder: Path, **given: object) -> CliHub:
    """A hub in a folder; what is given goes over `HUB`."""
    file = folder / "hub.yaml"
    file.write_text(json.dumps({**HUB, **given}, indent=2))
    return CliHub(file)


def order(number: str, total: int | None = 10) -> JsonObject:
    return {"number": number, "total": total}


def rejects(*keys: str) -> Answer:
    """An ERP that rejects the orders of these keys, and takes all others."""

    def answer(record: Outgoing) -> Outcome:
        return (
            Rejected("INVALID_TOTAL", "total is not credible") if record.key in keys else Accepted(f"SO-{record.key}")
        )

    return answer


def hangs(_: Outgoing) -> Outcome:
    """An ERP that never answers."""
    return Unknown(HUNG, "no answer within 15 s")
