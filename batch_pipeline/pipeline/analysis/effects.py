"""Which statements have an effect when their module is imported, beyond names that they bind.

A definition, an import or an assignment of a plain value only binds names. Everything else has, or may have, an effect:
a call, a decorator that registers, a class whose base looks at its subclasses. What is not known to be plain has one.
"""

from __future__ import annotations

import ast
from typing import Final, NamedTuple

from batch_pipeline.pipeline.analysis.usage import FUNCTIONS

#: Module -> what may be called, used as a decorator or be a base while a module is imported: it changes nothing.
_PLAIN: Final = {
    "abc": {"abstractmethod"},
    "collections": {"namedtuple"},
    "contextlib": {"contextmanager"},
    "dataclasses": {"dataclass", "field"},
    "enum": {"auto", "unique"},
    "functools": {"cache", "cached_property", "lru_cache", "partial", "total_ordering"},
    "pathlib": {"Path", "PurePath", "PurePosixPath"},
    "re": {"compile"},
    "typing": {"NewType", "TypeVar", "final", "overload", "override", "runtime_checkable"},
}
_PORTS: Final = frozenset({"Column", "Input", "Learned", "Output", "Param", "Reference"})
#: Builtins of which the same holds if they are given plain values.
_PLAIN_BUILTINS: Final = frozenset(
    {"bytes", "dict", "float", "frozenset", "int", "list", "range", "set", "str", "tuple"}
)
_PLAIN_DECORATORS: Final = frozenset({"classmethod", "property", "staticmethod"})
_BASE_MODULES: Final = frozenset({"abc", "batch_pipeline", "collections", "dataclasses", "enum", "typing"})
_BUILTIN_BASES: Final = frozenset(
    {"object", "dict", "int", "list", "set", "str", "tuple", "Exception", "OSError", "RuntimeError", "ValueError"}
)
#: Modules that are taken for Python's and ours; a pipeline's own module of such a name makes this a guess.
SHADOWED: Final = frozenset({*_PLAIN, *_BASE_MODULES})
_CALLS = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)


class Alias(NamedTuple):
    """A name that an import binds: to a module, or to a member of one (which may be a module too)."""

    name: str
    module: str
    #: Empty: the module itself.
    member: str = ""


class Effects:
    """Tells the statements that have an effect, given them in the order in which they are run."""

    def __init__(self, *, lazy_annotations: bool) -> None:
        self.aliases: dict[str, Alias] = {}
        #: Names of values that are known whole: looking at them runs no code.
        self.inert: set[str] = set()
        self.classes: set[str] = set()
        self.lazy = lazy_annotations

    def has_effect(self, node: ast.stmt) -> bool:
        """Whether a statement, other than an import, may do more than bind names."""
        try:
            return not self._only_binds(node)
        except RecursionError:
            return True

    def _only_binds(self, node: ast.stmt) -> bool:
        if isinstance(node, FUNCTIONS):
            # `__getattr__` is called unseen.
            return not _is_dunder(node.name) and self._function(node)
        if isinstance(node, ast.ClassDef):
            return self._class(node)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            return self._assignment(node)
        return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))

    def is_known_base(self, node: ast.expr) -> bool:
        """Whether a base is one of Python's or ours that does nothing with its subclasses."""
        while isinstance(node, ast.Subscript):
            node = node.value
        alias, _ = self._alias(node)
        if alias is not None:
            return alias.module.partition(".")[0] in _BASE_MODULES
        return isinstance(node, ast.Name) and node.id in _BUILTIN_BASES and node.id not in self.classes

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        defaults = [*node.args.defaults, *(each for each in node.args.kw_defaults if each is not None)]
        arguments = [each for each in ast.walk(node.args) if isinstance(each, ast.arg)]
        annotations = [each for each in (node.returns, *(one.annotation for one in arguments)) if each is not None]
        return (
            all(self._decorator(each) for each in node.decorator_list)
            and all(self._value(each) for each in defaults)
            and (self.lazy or all(_calls_nothing(each) for each in annotations))
        )

    def _class(self, node: ast.ClassDef) -> bool:
        self.classes.add(node.name)
        outside, self.inert = self.inert, set(self.inert)
        plain = not node.keywords and all(self._decorator(each) for each in node.decorator_list)
        plain = plain and all(_calls_nothing(base) for base in node.bases)
        for each in node.body:
            within = isinstance(each, ast.ClassDef) and not all(self.is_known_base(base) for base in each.bases)
            is_dunder = isinstance(each, FUNCTIONS) and each.name == "__init_subclass__"
            named = isinstance(each, FUNCTIONS) and self._function(each)
            plain = plain and not within and not is_dunder and (named or self._only_binds(each))
        self.inert = outside
        return plain

    def _assignment(self, node: ast.Assign | ast.AnnAssign) -> bool:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        plain = len(names) == len(targets) and not any(_is_dunder(name) for name in names)
        if isinstance(node, ast.AnnAssign):
            plain = plain and (self.lazy or _calls_nothing(node.annotation))
        if node.value is None:
            return plain
        if plain and self._inert(node.value):
            self.inert.update(names)
        return plain and self._value(node.value)

    def _decorator(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Attribute) and node.attr in ("setter", "getter", "deleter"):
            return isinstance(node.value, ast.Name)
        return self._is_plain_callee(node) or (isinstance(node, ast.Name) and node.id in _PLAIN_DECORATORS)

    def _value(self, node: ast.expr) -> bool:
        """Whether to compute a value runs none of the pipeline's code and changes nothing."""
        if self._inert(node) or isinstance(node, ast.Name):
            return True
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return all(self._value(each) for each in node.elts)
        if isinstance(node, ast.Dict):
            return all(key is not None and self._value(key) for key in node.keys) and all(map(self._value, node.values))
        if isinstance(node, ast.Lambda):
            return all(self._value(each) for each in (*node.args.defaults, *filter(None, node.args.kw_defaults)))
        if isinstance(node, ast.Attribute):
            return self._alias(node)[0] is not None or (
                isinstance(node.value, ast.Name) and node.value.id in self.classes
            )
        if isinstance(node, ast.Subscript):
            return isinstance(node.value, ast.Name) and node.value.id in _PLAIN_BUILTINS and _calls_nothing(node.slice)
        return isinstance(node, ast.Call) and self._call(node)

    def _call(self, node: ast.Call) -> bool:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(isinstance(each, ast.Starred) for each in node.args) or any(not each.arg for each in node.keywords):
            return False
        if isinstance(node.func, ast.Name) and node.func.id in _PLAIN_BUILTINS and node.func.id not in self.aliases:
            return all(self._inert(each) for each in values)
        return self._is_plain_callee(node.func) and all(self._value(each) for each in values)

    def _inert(self, node: ast.expr) -> bool:
        """Whether a value is known whole: made of constants, and of names of such values."""
        if isinstance(node, (ast.Constant, ast.Name)):
            return isinstance(node, ast.Constant) or node.id in self.inert
        if isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Starred)):
            parts = (each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr))
            return all(self._inert(each) for each in parts)
        if isinstance(node, (ast.JoinedStr, ast.FormattedValue, ast.Subscript)):
            return all(self._inert(each) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr))
        return False

    def _is_plain_callee(self, node: ast.expr) -> bool:
        alias, member = self._alias(node)
        if alias is None:
            return False
        callee = f"{alias.member}.{member}".strip(".")
        return callee in _PLAIN.get(alias.module, ()) or (
            alias.module.startswith("batch_pipeline") and callee in _PORTS
        )

    def _alias(self, node: ast.expr) -> tuple[Alias | None, str]:
        """The import from a known module that a name, or the base of `module.name`, comes from; with that member."""
        base, member = (node.value, node.attr) if isinstance(node, ast.Attribute) else (node, "")
        alias = self.aliases.get(base.id) if isinstance(base, ast.Name) else None
        known = alias is not None and alias.module.partition(".")[0] in SHADOWED
        return (alias, member) if known else (None, "")


def chain_of(node: ast.expr) -> tuple[str, ...]:
    """The names of `a.b.c`, whatever its type parameters; empty for another expression."""
    while isinstance(node, ast.Subscript):
        node = node.value
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()


def _calls_nothing(node: ast.expr) -> bool:
    return not any(isinstance(each, _CALLS) for each in ast.walk(node))


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name != "__all__"
