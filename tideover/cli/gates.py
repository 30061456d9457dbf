"""A system's breaker and pause, in words and colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tideover.cli.printing import NOTHING, span
from tideover.policy.breaker import State

if TYPE_CHECKING:
    from tideover.staging.systems import Gate

GOOD, BAD, WARY = "green", "bold red", "yellow"


def state(gate: Gate) -> str:
    """`closed`, `paused`, `open (forced)`."""
    forced = " (forced)" if gate.is_forced else ""
    if gate.state is State.CLOSED:
        return "paused" if gate.is_paused else f"closed{forced}"
    return f"{gate.state.value.replace('_', '-')}{forced}"


def colour(gate: Gate) -> str:
    if gate.state is State.CLOSED:
        return WARY if gate.is_paused or gate.is_forced else GOOD
    return BAD if gate.state is State.OPEN else WARY


def next_probe(gate: Gate) -> str:
    """When the system is asked again; a probe that is due waits for a worker."""
    if gate.state is State.CLOSED:
        return f"in {span(gate.wait_s)}" if gate.is_paused else NOTHING
    if gate.is_forced:
        return "never"
    return f"in {span(gate.wait_s)}" if gate.wait_s else "due"


def reason(gate: Gate) -> str:
    """Why it may not be called: what the hub made of it, and what the call met."""
    if gate.state is State.CLOSED and gate.is_paused:
        return gate.pause or "it asked for a pause"
    return ": ".join(part for part in (gate.reason, in_words(gate.detail)) if part)


_TOKEN = "token: token endpoint: "  # noqa: S105  the beginning of a detail, no secret
_MET = {
    "refused": "{} refuses connections",
    "dns": "{} is not known by that name (DNS)",
    "tls": "{} fails at TLS",
    "connect_timeout": "{} takes no connection in time",
    "timeout": "{} does not answer in time",
    "reset": "{} broke the connection off",
}
_SAYS_ENOUGH = ("timeout", "pool", "late", "server_error", "credentials", "redirect")  # the text alone tells it


def in_words(detail: str) -> str:
    """What a call met, for people: `refused: ConnectionRefusedError ECONNREFUSED` is `it refuses connections`."""
    if detail.startswith(_TOKEN):
        met = detail.removeprefix(_TOKEN)
        return _MET[met].format("its token endpoint") if met in _MET else f"its token endpoint says {met}"
    code, _, rest = detail.partition(": ")
    if code in _SAYS_ENOUGH and rest:
        return rest
    if code not in _MET:
        return detail
    return _MET[code].format("it") + (f": {rest}" if code == "tls" and rest else "")
