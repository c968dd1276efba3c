"""Writes docs/api.md anew: every public name of the package with its signature, docstring, attributes and methods.

`python -m scripts.api_page` (or `make map`) rewrites the page; a test holds that there is nothing to rewrite. The names
are those of `batch_pipeline/__init__.py`, a section a module. What an attribute is stands in its `#:` comment, which
Python does not keep, so the sources are read for it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import batch_pipeline

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
_HEAD = """# The names of the package

What `from batch_pipeline import …` gives, written by `make map` out of the docstrings. How the parts go together
stands in [How to write your own pipeline](how-to-write-a-pipeline.md).
"""
#: The sections of a docstring that have a heading of their own.
_SECTION = re.compile(r"(\w+)\n-+\n")


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute of a class, as its source has it."""

    name: str
    #: As it is written, without `ClassVar`; empty: none is written.
    type: str
    #: As it is written; empty: it must be given, or is set later.
    default: str
    #: Its `#:` comment, or that of the base class.
    meaning: str


def page() -> str:
    """The page as it should be."""
    named = [(name, getattr(batch_pipeline, name)) for name in batch_pipeline.__all__]
    modules = sorted({item.__module__ for _, item in named})
    return "\n".join((_HEAD, *("\n".join(_module(module, named)) for module in modules)))


def _module(module: str, named: list[tuple[str, Any]]) -> Iterator[str]:
    first = (inspect.getdoc(import_module(module)) or "").partition("\n")[0]
    yield f"## {module.removeprefix(f'{batch_pipeline.__name__}.')}\n\n{first}\n"
    inside = [(name, item) for name, item in named if item.__module__ == module]
    for name, item in sorted(inside, key=lambda pair: inspect.getsourcelines(pair[1])[1]):
        yield f"### {name}\n"
        if inspect.isclass(item):
            yield from _class(item)
        else:
            yield f"`{name}{signature_of(item)}`\n\n{_prose(item)}\n"


def _class(item: type) -> Iterator[str]:
    if not issubclass(item, Enum):
        yield f"`{item.__name__}{_constructor(item)}`\n"
    yield f"{_prose(item)}\n"
    attributes = list(_attributes(item))
    if attributes:
        yield "| attribute | type | default | meaning |\n|---|---|---|---|"
        for attribute in attributes:
            code = (f"`{text}`" if text else "" for text in (attribute.name, attribute.type, attribute.default))
            yield f"| {' | '.join(text.replace('|', chr(92) + '|') for text in (*code, attribute.meaning))} |"
        yield ""
    for name, member in vars(item).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        if name.startswith("_") or not (inspect.isfunction(function) or isinstance(function, property)):
            continue
        signature = "" if isinstance(function, property) else signature_of(function)
        yield f"#### {item.__name__}.{name}\n\n`{name}{signature}`\n\n{_prose(function)}\n"


def _constructor(item: type) -> str:
    """How it is made: of a dataclass what must be given, since its table has the rest."""
    if not dataclasses.is_dataclass(item):
        made_by = next(vars(base)["__init__"] for base in item.__mro__ if "__init__" in vars(base))
        return signature_of(made_by)
    fields = dataclasses.fields(item)
    required = [
        f"{field.name}: {field.type}"
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return f"(*, {', '.join((*required, *(['…'] if len(required) < len(fields) else [])))})"


def signature_of(function: Any) -> str:
    """The signature without `self`, with annotations as they are written."""
    if function is object.__init__:
        return "()"
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_AsWritten(parameter.annotation), default=_default(parameter))
        for name, parameter in signature.parameters.items()
        if name not in ("self", "cls")
    ]
    returned: object = inspect.Signature.empty
    if signature.return_annotation != "None":
        returned = _AsWritten(signature.return_annotation)
    return str(signature.replace(parameters=parameters, return_annotation=returned))


def _default(parameter: inspect.Parameter) -> Any:
    """The default; a sentinel, whose text would be its address, is an ellipsis."""
    return _AsWritten("…") if type(parameter.default) is object else parameter.default


class _AsWritten(str):
    """A text that is printed without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _prose(item: Any) -> str:
    """A docstring as Markdown: `Parameters` and `Raises` become lists."""
    title, *sections = _SECTION.split(inspect.getdoc(item) or "")
    parts = [title.strip()]
    for heading, text in zip(sections[::2], sections[1::2], strict=True):
        lines, _, rest = text.strip().partition("\n\n")
        parts.append(f"{heading}:\n\n" + re.sub(r"(?m)^(?=\w+: )", "- ", lines))
        parts += [rest] if rest else []
    return "\n\n".join(parts)


def _attributes(item: type) -> Iterator[Attribute]:
    for name, node in _assigned(item).items():
        default = "" if node.value is None else ast.unparse(node.value)
        written = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        meaning = next((text for base in item.__mro__ if (text := _comments(base).get(name))), "")
        yield Attribute(
            name=name,
            type=re.sub(r"^ClassVar\[(.*)\]$", r"\1", written),
            default=re.sub(r"^field\(default_factory=(\w+)\)$", r"\1()", default),
            meaning=meaning,
        )


def _assigned(item: type) -> dict[str, ast.Assign | ast.AnnAssign]:
    """The public attributes of a class's own body."""
    assigned: dict[str, ast.Assign | ast.AnnAssign] = {}
    for node in _source(item)[1]:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and not target.id.startswith("_"):
                assigned[target.id] = node
    return assigned


def _comments(item: type) -> dict[str, str]:
    """Attribute -> its `#:` comment, in the lines before it or at the end of its own."""
    lines, _ = _source(item)
    comments = {}
    for name, node in _assigned(item).items():
        before = node.lineno - 1
        while before and lines[before - 1].lstrip().startswith("#:"):
            before -= 1
        beside = lines[(node.end_lineno or node.lineno) - 1].partition("#: ")[2]
        texts = [line.lstrip().removeprefix("#:").strip() for line in lines[before : node.lineno - 1]]
        comments[name] = " ".join((*texts, beside)).strip()
    return comments


@cache
def _source(item: type) -> tuple[list[str], list[ast.stmt]]:
    """The lines of a class, and its body; of a class that is not ours, nothing."""
    if not item.__module__.startswith(batch_pipeline.__name__):
        return [], []
    text = textwrap.dedent(inspect.getsource(item))
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.ClassDef)
    return text.splitlines(), node.body


def main() -> int:
    """Rewrites the page, and says whether that changed it."""
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    after = page()
    PAGE.write_text(after, encoding="utf-8")
    print(f"docs/{PAGE.name} was up to date." if after == before else f"docs/{PAGE.name}: rewritten.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
