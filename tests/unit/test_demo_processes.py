"""The programs of the demonstration, and how they are told to stop."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

STARTER = """
import os, signal, subprocess, sys
from tideover.cli.demo.processes import heed_signals

heed_signals()
subprocess.run([sys.executable, "-c", "import signal; assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN"],
               check=True)
try:
    os.kill(os.getpid(), int(sys.argv[1]))
    signal.sigtimedwait([], 60)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_in_a_shells_background_heeds_signals_and_so_does_what_it_starts(number: signal.Signals) -> None:
    command = ["sh", "-c", 'trap "" INT; exec "$0" -c "$1" "$2"', sys.executable, STARTER, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
