"""Mapping functions: found, imported and looked at. Importing runs their code, so loading a hub never does it."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from pathlib import Path as FilePath

from tideover.config.document import Document, Path, Spot
from tideover.config.models import Hub, Mapping
from tideover.config.strict_yaml import read_yaml
from tideover.errors import ConfigError, Problem
from tideover.model import JsonObject

MappingFunction = Callable[[JsonObject], JsonObject | None]

_LIBRARIES = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


class NoFunction(ValueError):
    """A dotted path leads to no usable function: what is wrong, and how to mend it."""

    def __init__(self, what: str, mend: str) -> None:
        self.what, self.mend = what, mend
        super().__init__(f"{what} ({mend})")


def check_functions(hub: Hub, hub_file: FilePath) -> list[Problem]:
    """The mapping functions of a hub that can't be used, in file order; imports each from the folder of `hub_file`."""
    try:
        document = read_yaml(hub_file)
    except ConfigError:  # the file changed since it was loaded; the problems still stand, without their lines
        document = Document(str(hub_file), {}, {(): Spot(str(hub_file), (), (0, 0), (0, 0))})
    problems = []
    for path, mapping in _mappings(hub):
        if mapping.function is None:
            continue
        try:
            load_function(mapping.function, hub_file.resolve().parent)
        except NoFunction as error:
            problems.append(document.problem((*path, "function"), error.what, error.mend))
    return document.in_order(problems)


def _mappings(hub: Hub) -> Iterator[tuple[Path, Mapping]]:
    """Every mapping of the hub, with its place: the providers' and the routes'."""
    for name, group in hub.groups.items():
        for n, provider in enumerate(group.providers):
            yield ("groups", name, "providers", n, "mapping"), provider.mapping
    for name, route in hub.routes.items():
        yield ("routes", name, "mapping"), route.mapping


def load_function(dotted: str, folder: FilePath) -> MappingFunction:
    """The function at `package.module:function`, with `folder` before all else to import from.

    Raises `NoFunction`, whatever its module does when it is imported.
    """
    module_name, _, name = dotted.partition(":")
    with _importing_from(folder):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                mend = f"put it beside hub.yaml, as {module_name.replace('.', '/')}.py"
                raise NoFunction(f"there is no module `{module_name}`", mend) from error
            what = f"module `{module_name}` imports `{error.name}`, which is not installed"
            raise NoFunction(what, "install it where the workers run") from error
        except (Exception, SystemExit) as error:
            what = f"module `{module_name}` can't be imported: {type(error).__name__}{place_of(error)}"
            raise NoFunction(what, f"try `python -c 'import {module_name}'` beside hub.yaml") from error
    found = getattr(module, name, None)
    if found is None:
        near = get_close_matches(name, [n for n in dir(module) if callable(getattr(module, n, None))], 1, 0.6)
        raise NoFunction(
            f"module `{module_name}` has no `{name}`", f"did you mean `{near[0]}`?" if near else "define it"
        )
    if not callable(found):
        raise NoFunction(f"`{name}` is no function", "define it with `def`, taking the record")
    if inspect.iscoroutinefunction(found):
        raise NoFunction(f"`{name}` is async", "a mapping only computes; make it a plain `def`")
    if not _takes_one(found):
        raise NoFunction(f"`{name}` does not take exactly one record", "define it as `def name(record)`")
    function: MappingFunction = found
    return function


@contextmanager
def _importing_from(folder: FilePath) -> Iterator[None]:
    """What a module prints while it is imported goes to standard error: standard output may have to be JSON."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path[:] = before


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind({})
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def place_of(error: BaseException, *, caught: bool = False) -> str:
    """Where it went wrong, as in ` in mappings.py, line 7`, without the error's text, which may hold anything.

    `caught`: the outermost frame is that of who called and caught; it does not count, and a library that was called
    below is not where it went wrong.
    """
    if isinstance(error, SyntaxError) and not caught:
        return f" in line {error.lineno}"
    places = []
    step = error.__traceback__
    while step is not None:
        places.append((FilePath(step.tb_frame.f_code.co_filename), step.tb_lineno))
        step = step.tb_next
    if caught:
        places = places[1:]
        places = [place for place in places if not any(map(place[0].is_relative_to, _LIBRARIES))] or places
    return f" in {places[-1][0].name}, line {places[-1][1]}" if places else ""
