"""Mappings that are better a function than JMESPath. In hub.yaml: `mapping: {function: "mappings:order"}`."""

from __future__ import annotations

from typing import Any


def order(record: dict[str, Any]) -> dict[str, Any] | None:
    """The ERP's order; None leaves the record out. It only computes: the same record always gives the same result."""
    if record.get("status") == "draft":
        return None
    return {
        "external_id": record["id"],
        "number": record["number"],
        "customer": record["customerId"],
        "currency": record["currency"],
        "total": record["total"],
        "lines": [
            {"item": line["product"], "quantity": line["quantity"], "rate": line["price"]} for line in record["lines"]
        ],
    }
