"""A worker of the next release: `tests.chaos.worker`, made for a rehearsed revision.

python -m tests.compatibility.worker REVISION HUB_FILE URLS --margin-s 1
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from tests.chaos.worker import main
from tideover.staging import migrate

NEXT = Path(__file__).parent / "next"

if __name__ == "__main__":
    migrate.HEAD = sys.argv.pop(1)
    migrate.upgrade = partial(migrate.upgrade, later=[NEXT])
    main()
