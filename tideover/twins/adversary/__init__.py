"""Servers that do to a client what the worst provider would."""

from __future__ import annotations

from tideover.twins.adversary.server import Adversary, Behaviour, Received, refused_port

__all__ = ["Adversary", "Behaviour", "Received", "refused_port"]
