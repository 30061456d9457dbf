"""Inputs that Hypothesis makes up, through the real parts: a real server's bytes, the real connector, a real database.

FUZZ=50 python -m pytest tests/fuzz        fifty times as many examples, and other ones each time
"""
