"""Which files are a step's code: its module, what that imports from the pipeline's folder, its script and its files.

Their bytes are the step's part of the fingerprint, and together they are the bundle. Imports are read, not run: a
module that a step imports counts when it lies below the pipeline's folder, however deep the chain.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from batch_pipeline.pipeline.step import Step
from batch_pipeline.wire.digest import fingerprint_of, sha256_of_bytes
from batch_pipeline.wire.errors import InvalidPipeline


def entry_of(step_class: type[Step], root: Path) -> str:
    """`package.module:Class` as the container imports it from the bundle."""
    module = module_file(step_class, root).relative_to(root).with_suffix("")
    return f"{'.'.join(module.parts)}:{step_class.__qualname__}"


def code_of(step_class: type[Step], root: Path) -> tuple[Path, ...]:
    """The step's files, relative to the root, sorted. Raises InvalidPipeline for one that is missing or outside."""
    module = module_file(step_class, root)
    files = _local_imports(module, root)
    if isinstance(step_class.files, str):
        place, names = place_of(step_class, "files"), (step_class.files,)
        raise InvalidPipeline(f"{place}: {step_class.__name__}.files must be a tuple of names: {names!r}.")
    for name in (*((step_class.script,) if step_class.script else ()), *step_class.files):
        file = Path(os.path.normpath(module.parent / name))
        if not file.is_file():
            raise InvalidPipeline(f"{step_class.__name__} names the file {name!r}, which is not beside {module}.")
        if not file.is_relative_to(root):
            raise InvalidPipeline(
                f"{step_class.__name__} names the file {name!r}, which lies outside of the pipeline's folder {root};"
                " the bundle holds only what lies below it. Move or copy the file there."
            )
        files |= {file}
    return tuple(sorted(file.relative_to(root) for file in files))


def script_of(step_class: type[Step], root: Path) -> str:
    """The script's name in the bundle, or empty."""
    if not step_class.script:
        return ""
    script = os.path.normpath(module_file(step_class, root).parent / step_class.script)
    return str(Path(script).relative_to(root))


def code_digest(step_class: type[Step], root: Path) -> str:
    """Short digest over the names and bytes of the step's files."""
    return fingerprint_of([[str(file), sha256_of_bytes(_read(root / file))] for file in code_of(step_class, root)])


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


def _class_node(owner: type) -> tuple[ast.ClassDef, bool] | None:
    """The statement that makes a class, and whether that is in a main guard; None for one made otherwise."""
    return dict(_class_nodes(parsed(Path(inspect.getfile(owner))), "", guarded=False)).get(owner.__qualname__)


def _class_nodes(node: ast.AST, above: str, *, guarded: bool) -> Iterator[tuple[str, tuple[ast.ClassDef, bool]]]:
    for child in ast.iter_child_nodes(node):
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


def _local_imports(module: Path, root: Path) -> set[Path]:
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
    names: set[str] = set()
    package = file.relative_to(root).parent.parts
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*base, *(node.module or "").split("."))).strip(".")
            names.add(start)
            names.update(f"{start}.{alias.name}".strip(".") for alias in node.names)
    return {imported for name in names if name for imported in _files_of(name, root)}


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
    """The syntax tree of a file. Raises InvalidPipeline."""
    try:
        return ast.parse(_read(file), filename=str(file))
    except SyntaxError as error:
        raise InvalidPipeline(f"{file}, line {error.lineno}: {error.msg}.") from error
