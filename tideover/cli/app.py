"""The `tideover` command.

Its exit codes are in `frame.EXIT_CODES`, and at the end of `tideover --help`. Commands import what they need when they
run: looking at a hub must not wait for Prefect, nor `--help` for a database driver.
"""

from __future__ import annotations

from typing import Annotated

import typer

from tideover.cli import (
    auditing,
    breaking,
    checking,
    doctor,
    failover,
    migrating,
    parked,
    prefect_project,
    project,
    reconciliation,
    replaying,
    status,
    tracing,
    twins,
)
from tideover.cli.frame import EXIT_CODES, Cli, Command, framed
from tideover.cli.printing import forgive_encodings

LOOK, ACT, SET_UP, TRY = "Look", "Act", "Set up", "Try"

_CODES = "\n".join(f"{code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
_EPILOG = f"Exit codes:\n{_CODES}\n\nWith --json, an error is written as error {{kind, message, exit_code, problems}}."

app = typer.Typer(
    name="tideover",
    help="An integration hub on Prefect for business continuity: what is down, what waits, was anything lost?",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def root(cli: Cli) -> None:
    """An integration hub on Prefect for business continuity: what is down, what waits, was anything lost?"""


def blocks(cli: Cli) -> None:
    """Addresses and secrets of systems, as Prefect's blocks."""


def demo(
    cli: Cli,
    keep: Annotated[bool, typer.Option("--keep", envvar="KEEP", help="Leave everything running at the end.")] = False,
) -> int:
    """Watch a business keep going while its ERP is down: a real Prefect server, a worker, simulated systems.

    Ends with 7 when anything was lost or done twice.

    JSON: created, lost, duplicated, faults, held, delivered_elsewhere_during_outage, outage, return_to_drained_s.
    """
    doctor.need_prefect(cli)
    from tideover.cli import demo as demonstration

    return demonstration.run(keep=keep, as_json=cli.as_json)


def _register() -> None:
    app.callback()(framed(root))
    commands: tuple[tuple[str, Command, str], ...] = (
        ("status", status.status, LOOK),
        ("audit", auditing.audit, LOOK),
        ("trace", tracing.trace, LOOK),
        ("replay", replaying.replay, ACT),
        ("breaker", breaking.breaker, ACT),
        ("init", project.init, SET_UP),
        ("check", checking.check, SET_UP),
        ("migrate", migrating.migrate, SET_UP),
        ("deploy", prefect_project.deploy, SET_UP),
        ("version", doctor.version, SET_UP),
        ("demo", demo, TRY),
    )
    groups: tuple[tuple[str, str, Command | None, dict[str, Command]], ...] = (
        ("parked", LOOK, parked.parked, {"show": parked.show, "release": parked.release}),
        (
            "failover",
            LOOK,
            failover.failover,
            {"status": failover.status, "pin": failover.pin, "unpin": failover.unpin},
        ),
        ("reconciliation", LOOK, reconciliation.reconciliation, {"settle": reconciliation.settle}),
        ("blocks", SET_UP, None, {"apply": prefect_project.apply}),
        ("twins", TRY, twins.serve, _TWINS),
    )
    for name, function, panel in commands:
        app.command(name, rich_help_panel=panel)(framed(function))
    for name, panel, first, others in groups:
        group = typer.Typer(no_args_is_help=first is None)
        group.callback(invoke_without_command=first is not None)(framed(first or blocks))
        for inner, function in others.items():
            group.command(inner)(framed(function))
        app.add_typer(group, name=name, rich_help_panel=panel)


_TWINS: dict[str, Command] = {
    "status": twins.status,
    "fault": twins.fault,
    "clear": twins.clear,
    "kinds": twins.kinds,
    "seed": twins.seed,
    "ledger": twins.ledger,
}
_register()


def main() -> None:
    """Run the command that the process was started with, to its exit code."""
    forgive_encodings()
    app(prog_name="tideover")
