"""`init`: writes a new project from the template in `cli/project`: a small pipeline that runs and whose tests pass.

In the template the module is called `my_pipeline` and the class `MyPipeline`; `.in` ends the names of its Python files,
so that nothing takes them for modules of this package. The compressed samples are made here.
"""

from __future__ import annotations

import gzip
import keyword
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import json_option
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask

TEMPLATE: Final = Path(__file__).with_name("project")
#: A setting holds the name too, which has 40 characters at most.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: File of the template -> where it goes, if not under its own name.
_RENAMED: Final = {"pipeline.py.in": "{name}.py", "test_pipeline.py.in": "test_{name}.py"}
#: Sample -> its text.
_TEXTS: Final = {
    "ashes": "My name is Ozymandias, King of Kings;\nLook on my Works, ye Mighty, and despair!\nNothing remains.\n",
    "tyger": "Tyger Tyger, burning bright,\nIn the forests of the night;\n",
}


def init(call: CommandCall) -> int:
    """Writes the folder NAME with a pipeline, sample sheet, settings, a Dockerfile, tests and a README.

    NAME becomes the module NAME.py. The folder must be new or empty.
    """
    name = checked_name(call.options["name"])
    folder = Path(name)
    files = write_project(folder, name)
    enter, python = f"cd {name}", _python()
    commands = [f"{enter} && {python} {name}.py", f"{enter} && {python} -m pytest"]
    if call.json:
        print_json({"folder": str(folder.absolute()), "files": files, "commands": commands})
        return CommandExit.DONE
    data(f"Wrote {len(files)} files into {name}/. Run the pipeline on its two samples, then its tests:")
    for line in commands:
        data(f"  {line}")
    if find_spec("pytest") is None:
        say(f"The tests need pytest, which is not installed here: {python} -m pip install pytest")
    return CommandExit.DONE


def checked_name(name: str) -> str:
    """Returns the name of a project. Raises InvalidUse where it cannot be the name of its Python module."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InvalidUse(
            f"The name {name!r} cannot be that of a Python module: it must be 1 to 40 lower-case letters, digits and"
            " underscores, a letter first, and no keyword. Choose another, for example my_pipeline."
        )
    if name in {"batch_pipeline", *sys.stdlib_module_names, *packages_distributions()}:
        raise InvalidUse(f"Python has a module {name!r}, which {name}.py would hide. Choose another name.")
    return name


def write_project(folder: Path, name: str) -> list[str]:
    """Writes the project and returns its files, relative to the folder. Raises InvalidUse for a folder with content."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidUse(f"{folder.absolute()} exists and is not empty; init changes no file. Choose another name.")
    camel = "".join(word.capitalize() for word in name.split("_"))
    # A suffix keeps the class apart from the steps' classes.
    class_name = camel if camel.endswith("Pipeline") else f"{camel}Pipeline"
    files = {}
    for source in sorted(file for file in TEMPLATE.rglob("*") if file.is_file()):
        relative = source.relative_to(TEMPLATE).as_posix()
        text = source.read_text(encoding="utf-8").replace("my_pipeline", name).replace("MyPipeline", class_name)
        files[_RENAMED.get(relative, relative).format(name=name)] = text.encode()
    # Without a time of writing, so that two projects have the same bytes.
    files |= {f"data/{sample}.txt.gz": gzip.compress(text.encode(), mtime=0) for sample, text in _TEXTS.items()}
    for relative, content in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if content.startswith(b"#!"):
            path.chmod(0o755)
    return sorted(files)


def _python() -> str:
    """How a shell calls this Python: `python` where that is the one on the PATH."""
    first = shutil.which("python")
    return "python" if first and Path(first).absolute() == Path(sys.executable).absolute() else sys.executable


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    return command("init", workflow, argv, init, [click.Argument(["name"]), json_option()])
