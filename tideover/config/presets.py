"""Presets: descriptions of vendors that ship with tideover, laid under what a system says itself."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path as FilePath

from tideover.config.document import Document, Path, Spot
from tideover.config.names import is_name
from tideover.config.strict_yaml import read_yaml
from tideover.errors import ConfigError, Problem
from tideover.model import JsonObject

PRESET_KEYS = ("rest", "resolve", "key_horizon", "timeouts", "limits")

Presets = FilePath | Traversable


def shipped_presets() -> Presets:
    """The folder of the presets in this package."""
    return files("tideover") / "connectors" / "presets"


def preset_names(presets: Presets) -> list[str]:
    """The names of all presets in a folder, in alphabetical order."""
    if not presets.is_dir():
        return []
    return sorted(entry.name.removesuffix(".yaml") for entry in presets.iterdir() if entry.name.endswith(".yaml"))


def lay_under(document: Document, presets: Presets) -> tuple[Document, list[Problem], list[Path]]:
    """The document with each system's preset merged in, the presets' problems, and the systems that have them.

    Mappings merge, and the system's own values win. Lists replace, but for `rest.errors`: the system's own rules go
    before the preset's. A system whose preset is unusable stays as it is.
    """
    value, spots = dict(document.value), dict(document.spots)
    problems, unsure = list[Problem](), list[Path]()
    systems = value.get("systems")
    if not isinstance(systems, dict):
        return document, [], []
    value["systems"] = dict(systems)
    for name, system in systems.items():
        preset_name = system.get("preset") if isinstance(system, dict) else None
        if not isinstance(preset_name, str) or not is_name(preset_name):
            continue  # the models say what is wrong with it
        path = ("systems", name)
        preset, found = _read(document, (*path, "preset"), preset_name, presets)
        problems += found
        unsure += [path] if found else []
        if preset:
            value["systems"][name] = _merge(system, preset.value, ())
            spots |= _moved(preset, path, _own_rules(system)) | {p: s for p, s in spots.items() if p[:2] == path}
    return Document(document.file, value, spots), problems, unsure


def _read(document: Document, path: Path, name: str, presets: Presets) -> tuple[Document | None, list[Problem]]:
    """A preset, reduced to the keys that it may have, and its problems."""
    source = presets / f"{name}.yaml"
    if not source.is_file():
        names = preset_names(presets)
        near = get_close_matches(name, names, 1, 0.6)
        listed = f"the presets are {', '.join(names)}" if names else "none ships with this release"
        mend = f"did you mean `{near[0]}`?" if near else f"{listed}; without one, describe the system in `rest`"
        return None, [document.problem(path, f'there is no preset "{name}"', mend)]
    try:
        preset = read_yaml(source)
    except ConfigError as error:
        return None, error.problems
    mend = f"the keys here are {', '.join(PRESET_KEYS)}"
    foreign = [key for key in preset.value if key not in PRESET_KEYS]
    problems = [preset.problem((key,), "is no key of a preset", mend, at_key=True) for key in foreign]
    usable = {key: part for key, part in preset.value.items() if key in PRESET_KEYS}
    return Document(preset.file, usable, preset.spots), problems


def _merge(own: object, base: object, path: Path) -> object:
    if isinstance(own, dict) and isinstance(base, dict):
        merged = dict(base)
        for key, part in own.items():
            merged[key] = _merge(part, base[key], (*path, key)) if key in base else part
        return merged
    if path == ("rest", "errors") and isinstance(own, list) and isinstance(base, list):
        return own + base
    return own


def _own_rules(system: JsonObject) -> int:
    rest = system.get("rest")
    rules = rest.get("errors") if isinstance(rest, dict) else None
    return len(rules) if isinstance(rules, list) else 0


def _moved(preset: Document, path: Path, own_rules: int) -> dict[Path, Spot]:
    """The preset's spots under the paths that they have in the whole."""
    moved = {}
    for place, spot in preset.spots.items():
        if place[:2] == ("rest", "errors") and len(place) > 2 and isinstance(place[2], int):
            place = ("rest", "errors", place[2] + own_rules, *place[3:])
        if place:
            moved[path + place] = spot
    return moved
