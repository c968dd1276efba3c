"""What `release` and `subset` have in common: the other store, and how far the copying is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batch_pipeline.cli.call import CommandCall

if TYPE_CHECKING:
    from batch_pipeline.provenance.transfer import FileToCopy
    from batch_pipeline.wire.store import Store


def opened(call: CommandCall, location: str, *, create: bool = False) -> Store:
    """The store at a URL or folder, reached as the settings say; a folder is made when asked for."""
    from batch_pipeline.wire.store import open_store

    return open_store(location, create=create and "://" not in location, reach=call.reach)


@contextmanager
def shown() -> Iterator[Callable[[FileToCopy], None]]:
    """Who is told of each file that was copied: a line that moves, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda file: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("Copied"), MofNCompleteColumn(), DownloadColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda file: progress.update(task, advance=1, description=file.key)
