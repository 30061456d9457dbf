"""The packaged flows run on a server of their own, like the ones from the tree."""

from __future__ import annotations

from tests.flows.conftest import prefect, prefect_api, prefect_env, prefect_home, prefect_server

__all__ = ["prefect", "prefect_api", "prefect_env", "prefect_home", "prefect_server"]
