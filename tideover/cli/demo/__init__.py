"""`tideover demo`: the real thing on this machine. A Prefect server, a worker, simulated systems, the deployments of
the sample hub; then the ERP dies, and comes back; then a carrier hangs, and another stands in for it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tideover.bootstrap import open_hub
from tideover.cli.demo.acts import Figures, Play, until_true
from tideover.cli.demo.prefect_api import PrefectApi
from tideover.cli.demo.processes import Processes, free_ports, heed_signals
from tideover.cli.demo.screen import Screen, flows_table, verdict
from tideover.cli.project import lay_project
from tideover.errors import Refused
from tideover.hub.overview import OutageFigures, Overview
from tideover.twins import DEFAULT_PORTS, TwinControl

FOLDER = Path(".tideover") / "demo"
_MARKER = "made-by-tideover-demo"
SERVER_S = 180.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where this demonstration lives: its folder, and the ports it took."""

    folder: Path
    server_port: int
    twins_port: int

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def hub_file(self) -> Path:
        return self.project / "hub.yaml"

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.ui}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "TIDEOVER_HUB": str(self.hub_file),
        }


def run(*, keep: bool = False, as_json: bool = False) -> int:
    """Perform the demonstration; 0 when nothing was lost and nothing done twice."""
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=110)  # a pipe has no width of its own
    place = _make_place(Path.cwd() / FOLDER)
    processes = Processes(place.folder / "logs", place.project, place.environment)
    heed_signals()
    try:
        with Screen(console) as screen:
            figures = _perform(screen, place, processes)
        is_good = _show(console, place, figures, screen, keep=keep)
        if as_json:
            print(json.dumps(_plain(figures, screen), indent=2))
        if keep:
            _wait(console, place)
        return 0 if is_good else 7
    finally:
        processes.stop()


def _make_place(folder: Path) -> Place:
    try:
        _clear(folder)
    except OSError as error:
        raise Refused(
            f"the demonstration can't be laid in {folder}: {error.filename}: {error.strerror}; go to a folder that you "
            "may write in"
        ) from error
    server_port, twins_port = _ports()
    place = Place(folder, server_port, twins_port)
    lay_project(place.project)
    sample = place.project / "deployments" / "sample"
    shutil.copy(sample / "hub.yaml", place.hub_file)
    blocks = (sample / "blocks.yaml").read_text()
    for offset, port in enumerate(DEFAULT_PORTS.values(), 1):
        blocks = blocks.replace(f"127.0.0.1:{port}", f"127.0.0.1:{twins_port + offset}")
    (place.project / "blocks.yaml").write_text(blocks)
    return place


def _clear(folder: Path) -> None:
    """An empty folder in place of the last demonstration's."""
    if folder.exists():
        if not (folder / _MARKER).exists():
            raise Refused(f"{folder} is there and was not made by the demonstration; move it away")
        shutil.rmtree(folder)
    (folder / "logs").mkdir(parents=True)
    (folder / _MARKER).touch()


def _ports() -> tuple[int, int]:
    """A free port for the server, and the first of seven free ones in a row for the twins."""
    for _ in range(50):
        server, base = free_ports(2)
        with suppress(OSError, OverflowError):
            taken = [socket.socket() for _ in range(7)]
            try:
                for offset, each in enumerate(taken):
                    each.bind(("127.0.0.1", base + offset))
            finally:
                for each in taken:
                    each.close()
            if server not in range(base, base + 7):
                return server, base
    raise Refused("this machine has no eight free ports")


def _perform(screen: Screen, place: Place, processes: Processes) -> Figures:
    screen.begin("Setting up: the same programs and commands as in production")
    screen.say(f"prefect server start, on port {place.server_port} (a new database takes it a while)")
    processes.start("server", "-m", "deployments.server", "--port", str(place.server_port))
    folder, base = place.folder / "twins", str(place.twins_port)
    processes.start("twins", "-m", "tideover.twins", "--folder", str(folder), "--port-base", base)
    processes.wait_for("server", f"{place.ui}/api/health", SERVER_S)
    processes.wait_for("twins", f"http://127.0.0.1:{base}/health", SERVER_S)
    screen.say("six simulated systems listen; the server answers")
    processes.run("blocks", "-m", "tideover.cli", "blocks", "apply", "blocks.yaml")
    screen.say("tideover blocks apply blocks.yaml")
    processes.run("deploy", "-m", "tideover.cli", "deploy")
    screen.say("tideover deploy")
    processes.start("worker", "-m", "prefect", "worker", "start", "--pool", "tideover", "--type", "process")
    screen.say("prefect worker start --pool tideover")
    return asyncio.run(_play(screen, place))


async def _play(screen: Screen, place: Place) -> Figures:
    api = PrefectApi(f"{place.ui}/api")
    try:
        async with open_hub(place.hub_file) as rt, TwinControl(f"http://127.0.0.1:{place.twins_port}") as twins:
            await until_true(lambda: api.has_worker("tideover"), SERVER_S, "the worker")
            return await Play(screen, rt, api, twins).perform()
    finally:
        await api.close()


def _show(console: Console, place: Place, figures: Figures, screen: Screen, *, keep: bool) -> bool:
    faults = [fault for audit in figures.audits for fault in audit.faults]
    is_good = not (faults or figures.lost or figures.duplicated)
    assert screen.view is not None
    outage = _outage_of(screen.view, "erp")
    rows = [
        ("lost", str(figures.lost)),
        ("duplicated", str(figures.duplicated)),
        ("audit", "; ".join(faults) or "accepted = delivered + parked + superseded + waiting, for every route"),
        ("outage of the ERP", f"{outage.down_s or 0:.1f} s, {outage.outage.reason}"),
        ("time to detect", f"{outage.detect_s * 1000:.0f} ms from the first failed call"),
        ("orders kept", f"{figures.held}, while {figures.others_during_outage} other records went out"),
        ("time to drain", f"{outage.drain_s or 0:.2f} s; {figures.back_to_drained_s:.1f} s after the ERP's return"),
        ("failover", f"{figures.failover_s:.2f} s from carrier-a's first lost call, which hung for 2 s, to carrier-b"),
        ("orders in doubt", f"{figures.rerouted} sent elsewhere, {figures.voided} parcels too many, all voided"),
        ("failback", f"{figures.failback_s:.1f} s after carrier-a's return: dwell, canary, ramp"),
        ("whole play", f"{screen.elapsed_s:.0f} s"),
        ("", ""),
        *where_to_look(place.ui, keep=keep),
    ]
    console.print(flows_table(screen.view, screen.received))
    console.print(verdict(rows, is_good=is_good))
    return is_good


def where_to_look(ui: str, *, keep: bool) -> list[tuple[str, str]]:
    """The pages of the server; how to have one, where it stops with the demonstration."""
    if not keep:
        return [("to look around", "`KEEP=1 make demo`, or `tideover demo --keep`, leaves the server running")]
    return [
        ("run history", f"{ui}/runs"),
        ("health board", f"{ui}/artifacts/key/tideover-health"),
        ("automations", f"{ui}/automations"),
    ]


def _plain(figures: Figures, screen: Screen) -> dict[str, object]:
    assert screen.view is not None
    outage = _outage_of(screen.view, "erp")
    return {
        "created": figures.sent,
        "lost": figures.lost,
        "duplicated": figures.duplicated,
        "faults": [fault for audit in figures.audits for fault in audit.faults],
        "held": figures.held,
        "delivered_elsewhere_during_outage": figures.others_during_outage,
        "outage": {"detect_s": outage.detect_s, "down_s": outage.down_s, "drain_s": outage.drain_s},
        "return_to_drained_s": round(figures.back_to_drained_s, 3),
        "failover": {
            "shipped_elsewhere": figures.shipped_elsewhere,
            "rerouted": figures.rerouted,
            "voided": figures.voided,
            "first_failure_to_first_acceptance_s": round(figures.failover_s, 3),
            "return_to_first_choice_s": round(figures.failback_s, 3),
        },
    }


def _outage_of(view: Overview, system: str) -> OutageFigures:
    return next(figures for figures in view.outages if figures.outage.system == system)


def _wait(console: Console, place: Place) -> None:
    console.print(f"\nIt goes on: {place.ui}. In another shell:")
    console.print(f"  export PREFECT_API_URL={place.ui}/api TIDEOVER_HUB={place.hub_file}", soft_wrap=True)
    console.print(f"  export TIDEOVER_TWINS=http://127.0.0.1:{place.twins_port}")
    console.print("  tideover status --watch\n  tideover twins fault carrier-a down\n  tideover failover status")
    console.print("Ctrl-C stops everything.")
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
