"""awslabs' fetch-and-run: fetches a script or a zip named by the environment and runs it with the arguments.

As in https://github.com/awslabs/aws-batch-helpers: a script's first argument is only a name and is dropped; a zip's
first argument is the member to run, in the unpacked folder. Mended: a checksum, retries, no tool needed, no member
outside its folder, signals reach the payload, nothing is left behind, and failing to fetch has exit codes of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from batch_pipeline.container.code import unpack
from batch_pipeline.container.disk import local_error
from batch_pipeline.container.fetch import fetched, located
from batch_pipeline.container.log import say
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.container.run import Signals, spawn
from batch_pipeline.wire.contract import ContainerExit, Variable
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.scratch import remove_tree, scratch_root

USAGE = f"""\
usage: {Variable.FILE_TYPE}=script {Variable.FILE_URL}=URL fetch_and_run NAME [ARGUMENT…]
       {Variable.FILE_TYPE}=zip    {Variable.FILE_URL}=URL fetch_and_run MEMBER [ARGUMENT…]
       {Variable.MANIFEST}=KEY {Variable.STORE}=URL fetch_and_run
Runs a script (NAME is only a name), a member of a zip archive, or a cell of a pipeline. URL is s3://… or file:///…;
{Variable.FILE_SHA256}, where set, is the SHA-256 that the file must have."""


def run_payload(environment: Mapping[str, str], arguments: Sequence[str], cache: ProcessCache, signals: Signals) -> int:
    """Fetches and runs; the exit code is the payload's, or 128 and the number of the signal that ended it.

    Raises UnsafeFolder, ContractBroken, MissingInput, DiskFull, StoreFailed, StepInterrupted, all before the payload
    starts.
    """
    kind = environment.get(Variable.FILE_TYPE, "")
    url = environment.get(Variable.FILE_URL, "")
    problem = _problem(kind, url, arguments)
    if problem:
        say(f"{problem}\n{USAGE}")
        return ContainerExit.USAGE
    root = scratch_root(environment)
    folder = Path(cache.scratch(root), "payload")
    try:
        with signals.raising():
            _make(folder)
            files, key = located(url, cache)
            data = fetched(files, key, environment.get(Variable.FILE_SHA256, ""))
            command, working = _prepare(kind, data, folder, arguments)
        return spawn(command, environment, working, signals).exit_code
    finally:
        remove_tree(folder)
        cache.release(root)


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise local_error(folder, error) from error


def _problem(kind: str, url: str, arguments: Sequence[str]) -> str:
    """What is wrong with how we were called, or nothing."""
    if kind not in ("script", "zip"):
        return f"{Variable.FILE_TYPE} is {kind!r}; it must be script or zip."
    if not url.startswith(("s3://", "file:///", "memory://")):
        return f"{Variable.FILE_URL} is {url!r}; it must begin with s3:// or file:///."
    if kind == "zip" and not arguments:
        return "A zip needs the name of the member to run as first argument."
    return ""


def _prepare(kind: str, data: bytes, folder: Path, arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The command line and the folder to run it in (None: where we are)."""
    try:
        if kind == "script":
            script = folder / "script"
            script.write_bytes(data)
            script.chmod(0o700)
            return [str(script), *arguments[1:]], None
        working = folder / "zip"
        unpack(data, working)
    except OSError as error:
        raise local_error(folder, error) from error
    member = os.path.normpath(arguments[0])
    if member.startswith(("/", "..")) or not (working / member).is_file():
        raise ContractBroken(f"The zip has no member {arguments[0]!r} to run. Name one of its files.")
    return [f"./{member}", *arguments[1:]], working
