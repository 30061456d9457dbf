"""Migrates a database, and kills itself with SIGKILL before the first statement that begins as it is told.

python -m tests.chaos.migrator URL STATEMENT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from sqlalchemy import Connection, event

from tideover.staging import migrate
from tideover.staging.database import open_database


async def main(url: str, statement: str) -> None:
    def upgrade(conn: Connection) -> None:
        @event.listens_for(conn, "before_cursor_execute")
        def _kill(_conn: object, _cursor: object, text: str, *_rest: object) -> None:
            if " ".join(text.split()).lower().startswith(statement):
                os.kill(os.getpid(), signal.SIGKILL)

        migrate.upgrade(conn)

    await open_database(url).upgrade(upgrade)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
