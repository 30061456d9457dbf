"""The base of everything in `hub.yaml`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """The base of everything in `hub.yaml`: unknown keys are refused, values never change, numbers stay numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
