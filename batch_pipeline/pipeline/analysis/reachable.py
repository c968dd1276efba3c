"""Which code a step may use: its class, and what that names in its module and in the pipeline's other modules.

An import is followed as Python would run it: a module's statements that have an effect count, in their order; what only
binds a name counts when code that counts uses the name. Code that may reach more than it names (`usage.Reach`) brings
its whole module, or all of them. Sources are read, not run. The result is a digest a name, so that two of them say what
changed.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby

from batch_pipeline.pipeline.analysis.effects import SHADOWED, Alias
from batch_pipeline.pipeline.analysis.help_texts import unread_arguments
from batch_pipeline.pipeline.analysis.modules import Modules
from batch_pipeline.pipeline.analysis.statements import Module, Statement, module_name
from batch_pipeline.pipeline.analysis.syntax import normal_form
from batch_pipeline.pipeline.analysis.usage import (
    FUNCTIONS,
    RESOURCES,
    UNREAD,
    CodeUsage,
    Reach,
    class_forms,
    is_resource,
    reach_of_import,
)

#: The key for the order in which modules with effects are imported.
ORDER = "order of imports"


def reachable(
    sources: Mapping[str, bytes],
    module: str,
    name: str,
    *,
    classes: Collection[tuple[str, str]] = (),
    files: Collection[str] = (),
    programs: Collection[str] = (),
) -> dict[str, list[str]]:
    """What the code under `module.name` may use: names, and files that count whole -> texts in normal form.

    Parameters
    ----------
    sources:
        Every Python file that the module may import or names, relative to the pipeline's folder -> its bytes.
    classes:
        Module and name of the step classes of which resources and arguments (`usage.UNREAD`) do not count unless
        they are read.
    files:
        Of the sources those that are named as files: programs, unless they are imported.
    programs:
        Of the sources those that may be run as programs: they count by their bytes, and all that they import whole.

    Raises
    ------
    SyntaxError
    """
    left_out = UNREAD
    while True:
        walk = _CodeWalk(sources, frozenset(classes), left_out)
        walk.start(module, name)
        walk.run_programs(files, programs)
        read = UNREAD if walk.reach > Reach.NAMED else walk.resources
        if not left_out & read:
            return walk.texts()
        left_out -= read


class _CodeWalk:
    """One traversal of the pipeline's modules from a step's class on."""

    def __init__(
        self, sources: Mapping[str, bytes], classes: frozenset[tuple[str, str]], left_out: frozenset[str]
    ) -> None:
        self.modules = Modules(sources)
        self.classes = classes
        self.left_out = left_out
        self.reach = Reach.EVERYTHING if not SHADOWED.isdisjoint(self.modules.files) else Reach.NAMED
        self.resources: set[str] = set()
        self.strings: set[str] = set()
        self.reads_docstrings = False
        #: Module and statement of what has an effect, in the order in which they are run.
        self.run: list[tuple[Module, Statement]] = []
        self.reached: dict[Statement, Module] = {}
        #: Module, import, and the names that follow.
        self.imported: set[tuple[str, Alias, tuple[str, ...]]] = set()
        self.whole: set[str] = set()
        self.waiting: list[tuple[Module, CodeUsage]] = []
        #: Files that count by their bytes.
        self.programs: set[str] = set()

    def start(self, module: str, name: str) -> None:
        """Follows everything from a class on."""
        self._load(module)
        if name in self.modules.module(module).binding:
            self._use(self.modules.module(module), (name,))
        else:
            self.reach = max(self.reach, Reach.EVERYTHING)
        self._drain()

    def run_programs(self, files: Collection[str], programs: Collection[str]) -> None:
        """Follows what is run by the name of its file: how its imports are resolved is not known, only their names."""
        loaded = {self.modules.files[name] for name in self.modules.loaded}
        named = {file for file in files if file not in loaded or self.modules.source(file).has_main_guard}
        while new := {*named, *programs, *filter(self._is_named, self.modules.sources)} - self.programs:
            self.programs |= new
            words = {word for file in new for name in self.modules.source(file).imported for word in name.split(".")}
            for name in self.modules.files:
                if not words.isdisjoint(name.split(".")):
                    self._take_whole(name)
            self._drain()

    def _drain(self) -> None:
        while self.waiting:
            self._follow(*self.waiting.pop())

    def _follow(self, module: Module, usage: CodeUsage) -> None:
        self._reaches(module, usage.reach)
        self.resources |= usage.resources
        self.strings |= usage.strings
        self.reads_docstrings = self.reads_docstrings or usage.reads_docstrings
        for chain in sorted(usage.chains):
            self._use(module, chain)
        for node in usage.imports:
            for name in module.loaded_by(node):
                self._load(name)
            for alias in module.aliases_of(node):
                rests = {chain[1:] for chain in usage.chains if chain[0] == alias.name}
                for rest in sorted(rests | ({()} if alias.name in usage.shown or alias.name == "*" else set())):
                    self._import(module, alias, rest)

    def _reaches(self, module: Module, reach: Reach) -> None:
        self.reach = max(self.reach, reach)
        if reach is Reach.MODULE:
            self._take_whole(module.name)

    # Names.

    def _use(self, module: Module, chain: tuple[str, ...]) -> None:
        """Reaches what a module binds to the first name of a chain, and what the next names are of that."""
        for statement in module.binding.get(chain[0], ()):
            for alias in statement.aliases:
                if alias.name == chain[0]:
                    self._import(module, alias, chain[1:])
            if not isinstance(statement.node, (ast.Import, ast.ImportFrom)):
                self._take(module, statement)

    def _import(self, module: Module, alias: Alias, rest: tuple[str, ...]) -> None:
        if (module.name, alias, rest) in self.imported:
            return
        self.imported.add((module.name, alias, rest))
        if not self.modules.is_local(alias.module):
            self._reaches(module, reach_of_import(alias.module, alias.member, alias.name))
        if not alias.member:
            self._member(alias.module, rest)
        elif alias.member == "*":
            self._take_whole(module.name)
            self._take_whole(alias.module)
        elif self.modules.is_local(alias.module):
            self._member(alias.module, (alias.member, *rest))

    def _member(self, name: str, rest: tuple[str, ...]) -> None:
        """Reaches what the names of a chain are in a module of this pipeline; all of it where it is used as a whole."""
        if not self.modules.is_local(name):
            return
        self._load(name)
        if not rest:
            for each in self.modules.files:
                if each == name or each.startswith(f"{name}."):
                    self._take_whole(each)
            return
        inner = f"{name}.{rest[0]}".strip(".")
        is_bound = name in self.modules.files and rest[0] in self.modules.module(name).binding
        if is_bound:
            self._use(self.modules.module(name), rest)
        if self.modules.is_local(inner):
            self._member(inner, rest[1:])
        elif not is_bound:
            self._take_whole(name)

    def _take(self, module: Module, statement: Statement) -> None:
        if statement not in self.reached:
            self.reached[statement] = module
            self.waiting.append((module, statement.usage(self._resources_of(module, statement))))

    def _take_whole(self, name: str) -> None:
        if name in self.modules.files and name not in self.whole:
            self.whole.add(name)
            self._load(name)
            module = self.modules.module(name)
            self.waiting.append((module, module.usage))
            for statement in module.statements:
                for alias in statement.aliases:
                    self._import(module, alias, ())

    def _load(self, name: str) -> None:
        """Counts what has an effect in the modules that an import runs."""
        for module, statement in self.modules.load(name):
            self.run.append((module, statement))
            if not isinstance(statement.node, (ast.Import, ast.ImportFrom)):
                self._take(module, statement)
            for alias in statement.aliases:
                if alias.name == "*":
                    self._import(module, alias, ())

    # Texts.

    def texts(self) -> dict[str, list[str]]:
        """Everything that counts, by name."""
        if self.reach is Reach.SOURCE:
            return {file: [repr(data)] for file, data in self.modules.sources.items()}
        if self.reach is Reach.EVERYTHING:
            self.whole.update(self.modules.files)
            self.reads_docstrings = True
        texts = {file: [repr(self.modules.sources[file])] for file in self.programs}
        for name in sorted(self.whole):
            module = self.modules.module(name)
            text = normal_form(module.tree) if self.reads_docstrings else module.usage.forms[0][1]
            texts.setdefault(self.modules.files[name], []).append(text)
        for key, text in self._pieces():
            texts.setdefault(key, []).append(text)
        return texts

    def _pieces(self) -> Iterator[tuple[str, str]]:
        effects = [(module, statement) for module, statement in self.run if module.name not in self.whole]
        order = [name for name, _ in groupby(module.name for module, _ in self.run)]
        if len(order) > 1:
            yield ORDER, " ".join(order)
        for name in sorted({module.name for module in (*self.reached.values(), *(one for one, _ in effects))}):
            if self.modules.module(name).futures and name not in self.whole:
                yield self.modules.files[name], " ".join(("__future__", *self.modules.module(name).futures))
        for module, statement in effects:
            if _is_definition(statement):
                yield self.modules.files[module.name], statement.names[0]
            elif isinstance(statement.node, (ast.Import, ast.ImportFrom)):
                yield self.modules.files[module.name], "; ".join(map(repr, statement.aliases))
            else:
                yield self.modules.files[module.name], self._forms(module, statement)[0][1]
        run = {statement for _, statement in effects}
        for statement, module in self.reached.items():
            if module.name not in self.whole and (statement not in run or _is_definition(statement)):
                name = ", ".join(statement.names)
                for inner, text in self._forms(module, statement):
                    yield f"{module.name}.{name}{inner}", text
        for name, alias in sorted({(name, alias) for name, alias, _ in self.imported}, key=repr):
            if name not in self.whole:
                yield self.modules.files[name], f"{alias.name} = {alias.module} {alias.member}"

    def _forms(self, module: Module, statement: Statement) -> list[tuple[str, str]]:
        """A statement's text; of a class those of its methods apart, so that it can be said which of them changed."""
        left_out = self._resources_of(module, statement)
        if not self.reads_docstrings:
            return statement.usage(left_out).forms
        if isinstance(statement.node, ast.ClassDef):
            return class_forms(statement.node, left_out, normal_form)
        return [("", normal_form(statement.node))]

    def _resources_of(self, module: Module, statement: Statement) -> frozenset[ast.AST]:
        """The resources and arguments of a step's class that do not count."""
        node = statement.node
        if not isinstance(node, ast.ClassDef) or (module.name, node.name) not in self.classes:
            return frozenset()
        resources = frozenset(each for each in node.body if is_resource(each, self.left_out & RESOURCES))
        return resources | frozenset(unread_arguments(node, module, self.left_out))

    def _is_named(self, file: str) -> bool:
        """Whether a text of the code names a source, to read it or to run it."""
        name, module = file.rpartition("/")[2], module_name(file)
        if any(name in text or f"-m {module}" in text for text in self.strings):
            return True
        return "-m" in self.strings and module in self.strings


def _is_definition(statement: Statement) -> bool:
    return isinstance(statement.node, (*FUNCTIONS, ast.ClassDef))
