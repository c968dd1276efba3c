"""Which files are a step's code: its module, what that imports from the pipeline's folder, its script and its files.

Together they are the bundle. What the step may use of them (`reachable`) is the code's part of its fingerprint; the
bytes of all of them were that in earlier versions. Imports are read, not run: a module that a step imports counts when
it lies below the pipeline's folder, however deep the chain.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from batch_pipeline.pipeline.analysis.reachable import reachable
from batch_pipeline.pipeline.analysis.statements import Module, blocks_of, module_name, module_of, tree_of
from batch_pipeline.pipeline.step import Step
from batch_pipeline.wire.digest import FINGERPRINT_DIGITS, fingerprint_of, sha256_of_bytes
from batch_pipeline.wire.errors import InvalidPipeline


def entry_of(step_class: type[Step], root: Path) -> str:
    """`package.module:Class` as the container imports it from the bundle."""
    module = module_file(step_class, root).relative_to(root).with_suffix("")
    return f"{'.'.join(module.parts)}:{step_class.__qualname__}"


def code_of(step_class: type[Step], root: Path) -> tuple[Path, ...]:
    """The step's files, relative to the root, sorted. Raises InvalidPipeline for one that is missing or outside."""
    module = module_file(step_class, root)
    files = local_imports(module, root)
    for name in (*((step_class.script,) if step_class.script else ()), *step_class.files):
        file = Path(os.path.normpath(module.parent / name))
        if not _is_file(file):
            hint = ' Write a command as command = "…".' if name == step_class.script and len(name.split()) > 1 else ""
            raise InvalidPipeline(
                f"{_place_of_file(step_class, name)} names the file {name!r}, which is not beside {module}.{hint}"
            )
        if not file.is_relative_to(root):
            raise InvalidPipeline(
                f"{_place_of_file(step_class, name)} names the file {name!r}, which lies outside of the pipeline's"
                f" folder {root}; the bundle holds only what lies below it. Move or copy the file there."
            )
        files |= {file}
    return tuple(sorted(file.relative_to(root) for file in files))


def _place_of_file(step_class: type[Step], name: str) -> str:
    """Where a step names a file, and the step."""
    return f"{place_of(step_class, 'script' if name == step_class.script else 'files')}: {step_class.__name__}"


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):
        # Longer than a name may be.
        return False


def script_of(step_class: type[Step], root: Path) -> str:
    """The script's name in the bundle, or empty."""
    if not step_class.script:
        return ""
    script = os.path.normpath(module_file(step_class, root).parent / step_class.script)
    return str(Path(script).relative_to(root))


@dataclass(frozen=True, kw_only=True)
class CodeDigests:
    """What a step's code is, as digests."""

    #: Names that the step may use, and files that count whole -> short digest.
    names: Mapping[str, str]
    #: Over the names and bytes of all of its files: the code's part of fingerprints of earlier versions.
    files: str


def code_digests(step_class: type[Step], root: Path) -> CodeDigests:
    """Digests of a step's code as its files are now."""
    sources = {file.as_posix(): _read(root / file) for file in code_of(step_class, root)}
    entry = entry_of(step_class, root)
    module, _, name = entry.partition(":")
    folder = module_file(step_class, root).relative_to(root).parent
    named = {os.path.normpath(folder / name) for name in step_class.files}
    script = script_of(step_class, root)
    python = {file: data for file, data in sources.items() if file not in (*named, script) or _is_python(file, data)}
    data = {file: data for file, data in sources.items() if file not in python}
    programs = {file for file in python if file == script or _is_mentioned(file, data)}
    bases = (each for each in own_classes(step_class)[1:] if issubclass(each, Step))
    classes = {(module, name), *(_place_in(each, root) for each in bases)}
    top = name.partition(".")[0]
    texts = reachable(python, module, top, classes=classes, files=named & python.keys(), programs=programs)
    texts |= {file: [sha256_of_bytes(content)] for file, content in data.items()}
    return CodeDigests(
        names={each: _short_digest("\n".join(lines)) for each, lines in sorted(texts.items())},
        files=fingerprint_of([[file, sha256_of_bytes(data)] for file, data in sources.items()]),
    )


def _short_digest(text: str) -> str:
    return sha256_of_bytes(text.encode())[:FINGERPRINT_DIGITS]


def _place_in(owner: type, root: Path) -> tuple[str, str]:
    """Module and name of a class; no module for one from elsewhere."""
    file = Path(inspect.getfile(owner)).resolve()
    return module_name(file.relative_to(root).as_posix()) if file.is_relative_to(root) else "", owner.__qualname__


def own_classes(step_class: type[Step]) -> tuple[type, ...]:
    """The class of a step and its bases before `Step`."""
    return step_class.__mro__[: step_class.__mro__.index(Step)]


def place_of(declaring: type, attribute: str = "") -> str:
    """Where a class, or one of its attributes, is written: `/folder/main.py, line 7`."""
    owner = next((each for each in declaring.__mro__ if attribute in vars(each)), declaring)
    definition = _class_node(owner)
    if definition is None:
        return inspect.getfile(owner)
    node, _ = definition
    line = next((each.lineno for each in node.body if attribute in _assigned(each)), node.lineno)
    return f"{Path(inspect.getfile(owner)).resolve()}, line {line}"


def is_main_guard(node: ast.AST) -> bool:
    """Whether it is an `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def in_main_guard(declaring: type) -> bool:
    """Whether a class is made only where its module is the program."""
    definition = _class_node(declaring)
    return definition is not None and definition[1]


def class_node(owner: type) -> ast.ClassDef | None:
    """The statement that makes a class; None for one made otherwise."""
    definition = _class_node(owner)
    return definition[0] if definition else None


def _class_node(owner: type) -> tuple[ast.ClassDef, bool] | None:
    """The statement that makes a class, and whether that is in a main guard; None for one made otherwise."""
    file = Path(inspect.getfile(owner))
    return _classes_of(file, _read(file)).get(owner.__qualname__)


@lru_cache(maxsize=512)
def _classes_of(file: Path, _data: bytes) -> Mapping[str, tuple[ast.ClassDef, bool]]:
    return dict(_class_nodes(parsed(file), "", guarded=False))


def _class_nodes(node: Any, above: str, *, guarded: bool) -> Iterator[tuple[str, tuple[ast.ClassDef, bool]]]:
    """Every class by its qualified name; classes stand where statements do, so that expressions are not looked at."""
    for child in (each for block in blocks_of(node.__class__) for each in getattr(node, block)):
        below, inside = above, guarded or is_main_guard(child)
        if isinstance(child, ast.ClassDef):
            yield f"{above}{child.name}", (child, guarded)
            below = f"{above}{child.name}."
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            below = f"{above}{child.name}.<locals>."
        yield from _class_nodes(child, below, guarded=inside)


def _assigned(statement: ast.stmt) -> list[str]:
    """Names that a statement gives a value."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", statement)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def module_file(step_class: type[Step], root: Path) -> Path:
    """The file that defines the step. Raises InvalidPipeline for one outside of the root."""
    file = Path(inspect.getfile(step_class)).resolve()
    if not file.is_relative_to(root):
        raise InvalidPipeline(
            f"{step_class.__name__} is defined in {file}, outside of the pipeline's folder {root}; the bundle holds"
            " only what lies below it. Move or copy the file there."
        )
    return file


def local_imports(module: Path, root: Path) -> set[Path]:
    """The module and every module below the root that it imports, directly or not, with the packages' __init__.py."""
    imported: set[Path] = set()
    waiting = [module, *_packages_of(module.relative_to(root).with_suffix("").parts, root)]
    while waiting:
        file = waiting.pop()
        if file in imported:
            continue
        imported.add(file)
        waiting.extend(_imported_files(file, root) - imported)
    return imported


def _imported_files(file: Path, root: Path) -> set[Path]:
    imported = _module(file, root).imported
    here = {entry.partition(".")[0] for entry in os.listdir(root)}
    return {each for name in imported if name.partition(".")[0] in here for each in _files_of(name, root)}


def _module(file: Path, root: Path) -> Module:
    name = file.relative_to(root)
    try:
        return module_of(name.as_posix(), _read(file))
    except SyntaxError as error:
        raise InvalidPipeline(f"{file}, line {error.lineno}: {error.msg}.") from error


def _is_mentioned(file: str, contents: Mapping[str, bytes]) -> bool:
    """Whether a script or another file that is no Python names a module, to run it."""
    names = (file.rpartition("/")[2], f"-m {module_name(file)}")
    # What Python of another version imports cannot be read.
    return any(each.endswith(".py") for each in contents) or any(
        name.encode() in content for content in contents.values() for name in names
    )


def _is_python(file: str, data: bytes) -> bool:
    """Whether a file can be read as Python; another one named so counts by its bytes."""
    try:
        return file.endswith(".py") and bool(module_of(file, data))
    except (SyntaxError, ValueError):
        return False


def _files_of(name: str, root: Path) -> set[Path]:
    """The module's file below the root and the __init__.py of the packages above it; empty when it is elsewhere."""
    parts = name.split(".")
    if parts[0] in ("", "batch_pipeline"):
        return set()
    path = root.joinpath(*parts)
    # Like Python: a package goes before a module of its name.
    file = path / "__init__.py" if (path / "__init__.py").is_file() else path.with_suffix(".py")
    return {file, *_packages_of(parts, root)} if file.is_file() else set()


def _packages_of(parts: Sequence[str], root: Path) -> list[Path]:
    """The __init__.py of the packages above a module, which Python runs before it."""
    packages = (root.joinpath(*parts[:i]) / "__init__.py" for i in range(1, len(parts)))
    return [package for package in packages if package.is_file()]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidPipeline(f"{file} cannot be read: {error.strerror}.") from error


def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, which nobody changes. Raises InvalidPipeline."""
    try:
        return tree_of(_read(file))
    except SyntaxError as error:
        raise InvalidPipeline(f"{file}, line {error.lineno}: {error.msg}.") from error
