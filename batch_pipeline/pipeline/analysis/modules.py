"""The modules of a pipeline as imports find and run them, read from their sources: each is run once, in Python's order.

What is run are the statements that have an effect; a class has one too where a base may look at its subclasses, which
the base's own module tells.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from batch_pipeline.pipeline.analysis.statements import Module, Statement, module_name, module_of


class Modules:
    """The Python files of a pipeline, and which of them were imported so far."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self.sources = sources
        #: Module -> its file; a package goes before a module of its name.
        self.files = {
            module_name(file): file for file in sorted(sources, key=lambda file: file.endswith("/__init__.py"))
        }
        self.loaded: set[str] = set()
        self._modules: dict[str, Module] = {}
        self._effects: dict[Statement, bool] = {}

    def module(self, name: str) -> Module:
        """The module of a name that is one of `files`."""
        if name not in self._modules:
            self._modules[name] = self.source(self.files[name])
        return self._modules[name]

    def source(self, file: str) -> Module:
        """The module in a file."""
        return module_of(file, self.sources[file])

    def is_local(self, name: str) -> bool:
        """Whether a name is a module or a folder of the pipeline; empty: the pipeline's folder itself."""
        return not name or name in self.files or any(each.startswith(f"{name}.") for each in self.files)

    def load(self, name: str) -> Iterator[tuple[Module, Statement]]:
        """What the first import of a module runs that has an effect, after that of the packages above it."""
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            each = ".".join(parts[:count])
            if each in self.loaded or each not in self.files:
                continue
            self.loaded.add(each)
            module = self.module(each)
            for statement in module.statements:
                for node in statement.imports:
                    for loaded in module.loaded_by(node):
                        yield from self.load(loaded)
                if self._has_effect(module, statement):
                    yield module, statement

    def _has_effect(self, module: Module, statement: Statement) -> bool:
        if statement not in self._effects:
            self._effects[statement] = True  # of a class that is its own base
            has_effect = statement.has_effect or any(self._is_base_unknown(module, base) for base in statement.bases)
            self._effects[statement] = has_effect
        return self._effects[statement]

    def _is_base_unknown(self, module: Module, chain: tuple[str, ...]) -> bool:
        """Whether a base may look at its subclasses."""
        statements = module.binding.get(chain[0], [])
        if len(statements) != 1:
            return True
        if isinstance(statements[0].node, ast.ClassDef) and len(chain) == 1:
            return self._has_effect(module, statements[0])
        for alias in statements[0].aliases:
            if alias.name == chain[0]:
                names = (*((alias.member,) if alias.member else ()), *chain[1:])
                if alias.module in self.files and names:
                    return self._is_base_unknown(self.module(alias.module), names)
        return True
