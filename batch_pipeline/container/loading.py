"""Imports a step's class from its bundle, so that bundles of one process never meet.

While a bundle's module is imported its folder leads `sys.path` and hides modules of the same names that are loaded
already; afterwards its modules are taken out of `sys.modules` again and kept with the class. The fork that runs the
step puts them back for good (`LoadedStep.enter`), so that imports inside functions find them. Nothing is compiled into
a bundle's folder: that holds what its digest vouches for, and no more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from batch_pipeline.container.verdict import guarded
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.job import Job

#: Where a step's base class lives: a `check` from there checks nothing. Named, for the container does not import it.
_BASE_MODULE = "batch_pipeline.pipeline.step"


class StepLike(Protocol):
    """What is used of a step; the base class itself lies on the client's side."""

    #: Values of the sheet's columns for the cell's sample.
    column_values: Mapping[str, Any]

    def run(self, job: Job) -> None:
        """Makes the outputs."""

    def check(self, job: Job) -> None:
        """Looks at them."""


@dataclass(frozen=True, kw_only=True)
class LoadedStep:
    """A step's class and the modules of its bundle."""

    step_class: Any
    folder: Path
    modules: Mapping[str, ModuleType]

    @property
    def checks(self) -> bool:
        """Whether the class has a check of its own."""
        check = getattr(self.step_class, "check", None)
        return check is not None and getattr(check, "__module__", "") != _BASE_MODULE

    def enter(self) -> None:
        """Makes this process the bundle's own, for good."""
        names = _names_in(self.folder)
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(self.modules)
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(self.folder))

    def make(self, params: Mapping[str, Any]) -> StepLike:
        """The step with its parameters."""
        step: StepLike = self.step_class(**params)
        return step


def load_step(folder: Path, entry: str) -> LoadedStep:
    """Imports `package.module:Class` from a bundle's folder. Raises ContractBroken."""
    module_name, _, class_name = entry.partition(":")
    loaded: dict[str, LoadedStep] = {}

    def load() -> Mapping[str, Any]:
        with _bundle_first(folder) as modules:
            module = import_module(module_name)
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
            step_class = getattr(module, class_name)
            loaded["step"] = LoadedStep(step_class=step_class, folder=folder, modules=modules)
        return {}

    fields = guarded(load)
    if "message" in fields:
        raise ContractBroken(f"The step {entry} cannot be imported from its bundle: {fields['message']}.")
    if "step" not in loaded:
        raise ContractBroken(f"The bundle has no module {module_name!r}, which the step {entry} needs. Submit again.")
    return loaded["step"]


@contextmanager
def _bundle_first(folder: Path) -> Iterator[dict[str, ModuleType]]:
    """Yields the table of the bundle's modules, which is full when the context ends."""
    names = _names_in(folder)
    modules: dict[str, ModuleType] = {}
    hidden = _taken_out(names)
    compiles = not sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    invalidate_caches()
    try:
        yield modules
    finally:
        sys.dont_write_bytecode = not compiles
        modules.update(_taken_out(names))
        sys.path.remove(str(folder))
        sys.path_importer_cache.pop(str(folder), None)
        sys.modules.update(hidden)


def _taken_out(names: frozenset[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}


def _names_in(folder: Path) -> frozenset[str]:
    """Top-level modules of a bundle. This package is not one of them, whatever the bundle holds."""
    names = {path.name.partition(".")[0] for path in folder.iterdir()}
    return frozenset(names - {"batch_pipeline", "__pycache__", "__main__", "sys", "builtins"})
