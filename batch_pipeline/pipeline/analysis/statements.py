"""A module's top-level statements: which names each binds, and which of them do something when they are run.

What only binds names matters to who uses them; what has an effect matters to whoever imports the module (`effects`).
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache, cached_property, lru_cache
from typing import Any

from batch_pipeline.pipeline.analysis.effects import Alias, Effects, chain_of
from batch_pipeline.pipeline.analysis.usage import FUNCTIONS, CodeUsage, usage_of


class Statement:
    """One statement of a module."""

    def __init__(self, node: ast.stmt, names: tuple[str, ...]) -> None:
        self.node = node
        #: Names that it binds in the module, imported ones among them.
        self.names = names
        #: Imports in it that are run with it, and the names that they bind.
        self.imports: tuple[ast.Import | ast.ImportFrom, ...] = ()
        self.aliases: tuple[Alias, ...] = ()
        #: Whether it may do more than bind names, as far as its module alone can tell (`bases` may be another's).
        self.has_effect = False
        #: Of a class: the bases that are to be looked at, of this module or another; `tools.Base` is ("tools", "Base").
        self.bases: tuple[tuple[str, ...], ...] = ()
        self._usages: dict[frozenset[ast.AST], CodeUsage] = {}

    def usage(self, without: frozenset[ast.AST] = frozenset()) -> CodeUsage:
        """What it uses, but for what stands in `without`. It is read once."""
        if without not in self._usages:
            self._usages[without] = usage_of(self.node, without)
        return self._usages[without]


class Module:
    """The statements of one file, by its text: two files of the same name and text are one."""

    def __init__(self, name: str, *, is_package: bool, tree: ast.Module) -> None:
        self.name = name
        self.tree = tree
        self.package = name if is_package else name.rpartition(".")[0]
        futures = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__")
        #: What it imports from `__future__`: it changes what the other statements mean.
        self.futures = sorted({alias.name for node in futures for alias in node.names})
        self.statements = list(self._statements())
        #: Name -> the statements that bind it.
        self.binding: dict[str, list[Statement]] = {}
        for statement in self.statements:
            for each in statement.names:
                self.binding.setdefault(each, []).append(statement)

    @cached_property
    def usage(self) -> CodeUsage:
        """What all of it uses."""
        return usage_of(self.tree)

    @cached_property
    def has_main_guard(self) -> bool:
        """Whether something is done only where the module is the program."""
        return any(_is_main_guard(node) for node in self.tree.body)

    @cached_property
    def imported(self) -> frozenset[str]:
        """Every module that it imports anywhere, and every member that may be one."""
        imports = (node for node in statements_in(self.tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
        return frozenset(name for node in imports for name in self.loaded_by(node))

    @cached_property
    def rebound(self) -> frozenset[str]:
        """Names that a function may bind in it: those that are declared `global`."""
        declared = (node for node in statements_in(self.tree) if isinstance(node, ast.Global))
        return frozenset(name for node in declared for name in node.names)

    def loaded_by(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        """Modules that an import loads, in order; of members of a package those that may be modules."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        module = self._absolute(node)
        return [module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)]

    def aliases_of(self, node: ast.Import | ast.ImportFrom) -> tuple[Alias, ...]:
        """Names that an import binds; `*` for all of a module's."""
        if isinstance(node, ast.ImportFrom):
            module = self._absolute(node)
            return tuple(Alias(alias.asname or alias.name, module, alias.name) for alias in node.names)
        return tuple(
            Alias(alias.asname, alias.name) if alias.asname else Alias(*[alias.name.partition(".")[0]] * 2)
            for alias in node.names
        )

    def _absolute(self, node: ast.ImportFrom) -> str:
        parts = self.package.split(".") if self.package else []
        above = parts[: len(parts) - node.level + 1] if node.level else []
        return ".".join((*above, *([node.module] if node.module else ())))

    def _statements(self) -> Iterator[Statement]:
        run = [(node, tuple(dict.fromkeys(bound_names(node)))) for node in _run_on_import(self.tree.body)]
        bound = Counter(name for _, names in run for name in names)
        effects = Effects(lazy_annotations="annotations" in self.futures)
        for node, names in run:
            statement = Statement(node, names)
            statement.imports = tuple(each for each in _at_top(node) if isinstance(each, (ast.Import, ast.ImportFrom)))
            statement.aliases = tuple(alias for each in statement.imports for alias in self.aliases_of(each))
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                statement.has_effect = any(alias.name == "*" for alias in statement.aliases)
                effects.aliases.update((alias.name, alias) for alias in statement.aliases)
            else:
                statement.has_effect = effects.has_effect(node)
            # Of several the last counts, but not for what is run in between.
            statement.has_effect = statement.has_effect or any(bound[name] > 1 for name in names)
            if isinstance(node, ast.ClassDef) and not statement.has_effect:
                bases = [chain_of(base) for base in node.bases if not effects.is_known_base(base)]
                statement.has_effect = not all(bases)
                statement.bases = tuple(bases)
            yield statement


def _run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that an import runs: not those for a program, nor those for type checkers."""
    for_checkers = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module == "typing"
        for alias in node.names
        if alias.name == "TYPE_CHECKING"
    }
    for node in body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id in for_checkers:
            # Its imports may be named in annotations.
            yield from (each for each in node.body if isinstance(each, (ast.Import, ast.ImportFrom)))
            yield from node.orelse
        elif not _is_main_guard(node):
            yield node


def _is_main_guard(node: ast.stmt) -> bool:
    """Whether it is just an `if __name__ == "__main__"`."""
    if not isinstance(node, ast.If) or node.orelse or not isinstance(node.test, ast.Compare):
        return False
    test = node.test
    is_name = isinstance(test.left, ast.Name) and test.left.id == "__name__" and isinstance(test.ops[0], ast.Eq)
    value = test.comparators[0]
    return is_name and len(test.ops) == 1 and isinstance(value, ast.Constant) and value.value == "__main__"


def statements_in(tree: ast.AST) -> Iterator[Any]:
    """A tree with every statement in it, and every part of one that holds statements; no expression is looked at."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in blocks_of(node.__class__):
            waiting += getattr(node, block)


@cache
def blocks_of(kind: Any) -> tuple[str, ...]:
    """The fields of a statement, or of a part of one, that hold statements."""
    return tuple(block for block in ("body", "orelse", "finalbody", "handlers", "cases") if block in kind._fields)


def _at_top(node: ast.stmt) -> Iterator[ast.AST]:
    """A statement and what is in it, but for the insides of functions and classes."""
    waiting: list[ast.AST] = [node]
    while waiting:
        each = waiting.pop()
        yield each
        if not isinstance(each, (*FUNCTIONS, ast.ClassDef, ast.Lambda, ast.Import, ast.ImportFrom)):
            waiting.extend(ast.iter_child_nodes(each))


def bound_names(node: ast.stmt) -> Iterator[str]:
    """Names that a statement binds in its module or class."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    for each in _at_top(node):
        if isinstance(each, (*FUNCTIONS, ast.ClassDef)):
            yield each.name
        elif isinstance(each, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in each.names)
        elif isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
            yield each.id
        elif isinstance(each, (ast.MatchAs, ast.MatchStar, ast.ExceptHandler)) and each.name:
            yield each.name


def module_name(file: str) -> str:
    """The module of a file, relative to the pipeline's folder."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@lru_cache(maxsize=512)
def module_of(file: str, data: bytes) -> Module:
    """The statements of a file with this text, read once a process. Raises SyntaxError."""
    return Module(module_name(file), is_package=file.endswith("/__init__.py"), tree=tree_of(data))


@lru_cache(maxsize=512)
def tree_of(data: bytes) -> ast.Module:
    """The syntax tree of a text, parsed once a process; nobody changes it. Raises SyntaxError."""
    # Python itself warns of the file, by its name, when it compiles it.
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(data)
