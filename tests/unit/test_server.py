"""Prefect's server as `deployments.server` starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = """
import runpy, sys, threading, time
from deployments import server

closed_by = []

class Cursor:
    def __init__(self):
        self.error = self  # a cycle of references, as an error's traceback makes one

    def __del__(self):
        closed_by.append(threading.current_thread())

def run_module(name, **_):
    assert (name, sys.argv) == ("prefect", ["prefect", "server", "start", "--port", "1"]), sys.argv
    while not closed_by:
        for _ in range(10_000):
            Cursor()
        time.sleep(0.01)
    assert threading.main_thread() not in closed_by

runpy.run_module = run_module
sys.argv[1:] = ["--port", "1"]
server.main()
"""


def test_garbage_of_prefects_server_is_collected_beside_its_event_loop() -> None:
    done = subprocess.run([sys.executable, "-c", SERVER], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
