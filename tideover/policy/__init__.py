"""Decisions. Everything here is a function or a table from (state, event, now) to (state, actions): no I/O, no
clock, no randomness of its own."""
