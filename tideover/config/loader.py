"""From a file to a `Hub`: strict YAML, presets, models, relations. Every problem is found at once, with its place."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path as FilePath

from pydantic import ValidationError

from tideover.config.document import Document, Path
from tideover.config.messages import Complaint, explain
from tideover.config.models import Hub
from tideover.config.presets import Presets, lay_under, shipped_presets
from tideover.config.relations import Finding, check_relations
from tideover.config.strict_yaml import read_yaml
from tideover.errors import ConfigError, Problem
from tideover.model import JsonObject


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a configuration file. `hub` is None where there are problems; warnings don't hinder it."""

    problems: list[Problem]
    warnings: list[Problem]
    hub: Hub | None


def load_hub(path: FilePath, *, presets: Presets | None = None) -> Hub:
    """The hub that a file describes. Raises `ConfigError` with every problem in it, in file order.

    `presets` is the folder of presets; default: those that ship with tideover.
    """
    report = check_hub(path, presets=presets)
    if report.hub is None:
        raise ConfigError(report.problems)
    return report.hub


def check_hub(path: FilePath, *, presets: Presets | None = None) -> Report:
    """Everything that can be said about a configuration file without running it. Never raises `ConfigError`."""
    try:
        document = read_yaml(path)
    except ConfigError as error:
        return Report(error.problems, [], None)
    return check_document(document, presets=presets)


def check_document(document: Document, *, presets: Presets | None = None) -> Report:
    """As `check_hub`, for a document that was read already."""
    whole, problems, unsure = lay_under(document, shipped_presets() if presets is None else presets)
    hub, complaints = _validate(whole.value)
    problems += [whole.problem(c.path, c.what, c.mend, at_key=c.at_key) for c in complaints]
    usable = hub or _remainder(whole.value, complaints)
    findings = check_relations(usable) if usable else []
    unsure += [_mappings_only(c.cut) for c in complaints]
    certain = [f for f in findings if not _overlaps(f, unsure)]
    problems += [_placed(whole, f) for f in certain if not f.is_warning]
    warnings = [_placed(whole, f) for f in certain if f.is_warning]
    return Report(whole.in_order(problems), whole.in_order(warnings), None if problems else hub)


def staging_path(hub: Hub, hub_file: FilePath) -> FilePath | None:
    """The SQLite file of the staging database, absolute; None where the database is elsewhere.

    A relative path counts from the folder of `hub_file`, whatever the working directory is.
    """
    return (hub_file.resolve().parent / hub.staging.sqlite) if hub.staging.sqlite else None


def _validate(value: JsonObject) -> tuple[Hub | None, list[Complaint]]:
    try:
        return Hub.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        return None, [explain(e, value) for e in error.errors(include_url=False)]


def _remainder(value: JsonObject, complaints: list[Complaint]) -> Hub | None:
    """The hub without what is wrong in it, for a look at its relations; None where too little is left."""
    left = deepcopy(value) | {"name": "unnamed"}  # no relation rests on the hub's name
    cuts = {_mappings_only(c.cut) for c in complaints if c.path != ("name",)}
    while () not in cuts:
        for path in cuts:
            _cut(left, path)
        hub, complaints = _validate(left)
        if hub:
            return hub
        # What is cut may be needed further out; each round goes at least one step out, so this ends.
        cuts = {path[:-1] if path in cuts else path for path in (_mappings_only(c.cut) for c in complaints)}
    return None


def _mappings_only(path: Path) -> Path:
    """The path up to the first list: a list goes as a whole, so that the places of its items stay true."""
    return next((path[:n] for n, step in enumerate(path) if isinstance(step, int)), path)


def _cut(value: object, path: Path) -> None:
    for step in path[:-1]:
        value = value.get(str(step)) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value.pop(str(path[-1]), None)


def _overlaps(finding: Finding, unsure: list[Path]) -> bool:
    """Whether a finding may be a mere consequence of something else that is wrong."""
    grounds = (finding.path, *finding.rests_on)
    return any(a[: len(b)] == b[: len(a)] for a in grounds for b in unsure)


def _placed(whole: Document, finding: Finding) -> Problem:
    return whole.problem(finding.path, finding.what, finding.mend, at_key=finding.at_key)
