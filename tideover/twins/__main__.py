"""`python -m tideover.twins --folder DIR`: run the twins in the foreground."""

from __future__ import annotations

import argparse
import sys

from tideover.twins.host import NAMES
from tideover.twins.refusal import TwinRefused
from tideover.twins.serving import DEFAULT_CONTROL_PORT, ports_from, serve


def main() -> int:
    """Parse the command line and serve; the exit code."""
    parser = argparse.ArgumentParser("python -m tideover.twins", description="Simulated vendors with fault switches.")
    parser.add_argument("--folder", required=True, help="where the twins keep what they remember")
    base_help = "the control server's port; the twins' follow it (%(default)s)"
    parser.add_argument("--port-base", type=int, default=DEFAULT_CONTROL_PORT, help=base_help)
    parser.add_argument("--only", action="append", choices=NAMES, help="run only this twin; may be given again")
    parser.add_argument("--address", default="127.0.0.1", help="the IP address to listen on (%(default)s)")
    given = parser.parse_args()
    try:
        serve(given.folder, ports_from(given.port_base), given.port_base, names=given.only, address=given.address)
    except TwinRefused as refused:
        print(refused, file=sys.stderr)
        return refused.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
