"""Records for a source, made from a number: the same number gives the same record. Nobody in them is real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_COUNTRIES = ("DE", "FR", "NL", "AT", "PL", "IT", "ES", "SE")
_PRODUCTS = ("pallet", "crate", "drum", "reel", "sack", "case", "bundle")
_SEGMENTS = ("retail", "wholesale", "public")
_PRIORITIES = ("low", "normal", "high", "urgent")
_SUBJECTS = ("Where is my delivery", "An invoice is missing", "A part is broken", "Change of address")


def _spread(number: int, salt: int, below: int) -> int:
    """A number below `below` that looks random and never changes (a multiplicative hash)."""
    mixed = (number * 0x9E3779B1 + salt * 0x85EBCA6B) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D & 0xFFFFFFFF) % below


def order(number: int) -> dict[str, Any]:
    """A sales order; `total` is the sum of its lines."""
    customer = _spread(number, 1, 500) + 1
    lines = [_line(number, at) for at in range(1 + _spread(number, 2, 3))]
    return {
        "id": f"order-{number:06d}",
        "number": f"SO-{number:06d}",
        "customerId": f"contact-{customer:06d}",
        "customer": f"Customer {customer}",
        "country": _COUNTRIES[_spread(customer, 3, len(_COUNTRIES))],
        "currency": "EUR",
        "lines": lines,
        "total": round(sum(line["quantity"] * line["price"] for line in lines), 2),
        "weightKg": round(0.5 + _spread(number, 4, 2000) / 100, 2),
        "status": "open",
    }


def contact(number: int) -> dict[str, Any]:
    """A customer's contact; its address is under a domain reserved for examples (RFC 2606)."""
    return {
        "id": f"contact-{number:06d}",
        "email": f"customer{number}@example.com",
        "name": f"Customer {number}",
        "country": _COUNTRIES[_spread(number, 3, len(_COUNTRIES))],
        "segment": _SEGMENTS[_spread(number, 5, len(_SEGMENTS))],
        "subscribed": _spread(number, 6, 10) > 0,
    }


def ticket(number: int) -> dict[str, Any]:
    """A question to the support desk."""
    customer = _spread(number, 7, 500) + 1
    return {
        "id": f"ticket-{number:06d}",
        "subject": f"{_SUBJECTS[_spread(number, 8, len(_SUBJECTS))]} ({number})",
        "priority": _PRIORITIES[_spread(number, 9, len(_PRIORITIES))],
        "requester": f"customer{customer}@example.com",
        "orderId": f"order-{_spread(number, 10, 1000) + 1:06d}",
        "status": "open",
    }


SAMPLES: dict[str, Callable[[int], dict[str, Any]]] = {"orders": order, "contacts": contact, "tickets": ticket}


def _line(number: int, at: int) -> dict[str, Any]:
    return {
        "product": _PRODUCTS[_spread(number, 11 + at, len(_PRODUCTS))],
        "quantity": 1 + _spread(number, 21 + at, 9),
        "price": (100 + _spread(number, 31 + at, 20_000)) / 100,
    }
