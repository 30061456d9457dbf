"""Measured comparisons, side by side in one run: `python -m bench [--quick] [--only NAME]`.

Only ratios within one run count; machines, and the same machine at two moments, differ. `bench/results/` gets the
figures as JSON and as a table, `docs/performance.md` says what they mean.
"""
