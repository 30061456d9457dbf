"""tideover: an integration hub on Prefect for business continuity.

This package is the engine. It knows no Prefect: flows, tasks, blocks and deployments stand above it.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("prefect-tideover")
except PackageNotFoundError:  # run from a tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
