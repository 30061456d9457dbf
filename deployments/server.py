"""`prefect server start` on SQLite, with its garbage collected beside its event loop: `python -m deployments.server`.

Prefect's server answers "database is locked" now and then on SQLite, as when several runs start at once. Each such
error keeps a cursor in a cycle of references, for the garbage collector to close. Closing it waits for its connection,
which may by then wait for the database, up to a minute; and whoever holds the database needs the event loop to go on.
Where the collector runs in the loop's thread, the whole server stands still for that minute. A thread of its own may
wait as long as it likes. A server on PostgreSQL has nothing to do with this.
"""

from __future__ import annotations

import gc
import runpy
import sys
import threading
import time

YOUNG_EVERY_S, ALL_EVERY = 1.0, 60  # the younger generations each second, all of them each minute


def collect_forever() -> None:
    """Do what the interpreter does by itself, in this thread."""
    turn = 0
    while True:
        time.sleep(YOUNG_EVERY_S)
        turn += 1
        gc.collect(2 if turn % ALL_EVERY == 0 else 1)


def main() -> None:
    """Take the arguments of `prefect server start`."""
    gc.disable()
    threading.Thread(target=collect_forever, name="garbage", daemon=True).start()
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
