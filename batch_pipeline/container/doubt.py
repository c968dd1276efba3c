"""Retires the receipt of a result that is not what the receipt says, so that the next command makes it again.

Whoever was to read the result finds it: the file is gone, or has other bytes than its receipt names. Only the receipt
that stands beside the file while it is looked at is meant. A cell that is made again loses its receipt before its files
change, so a receipt that is the same before and after the look was not about to be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from batch_pipeline.container.keep import receipt_at
from batch_pipeline.container.logger import Logger
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.retirement import Retirement
from batch_pipeline.wire.store import NotInStore

if TYPE_CHECKING:
    from batch_pipeline.container.files import Files
    from batch_pipeline.container.stage import FileToStage

LOGGER = Logger(__name__)

Cell = tuple[str, str]


def retire_untrue(
    wanted: Sequence[FileToStage],
    suspect: FileToStage | None,
    receipts: Mapping[Cell, Receipt],
    *,
    run_id: str,
    files: Files,
) -> str:
    """Retires the receipts of all cells of which one of these files is not what it should be.

    `suspect` was found so; the others are looked at, which reads a file only in a folder and if it was written since it
    was published. Returns a sentence about the first; empty if there is none, or if another receipt has taken the place
    of the one that was read (`receipts`). Raises StoreFailed.
    """
    sentences: dict[Cell, str] = {}
    for cell, problem in _problems(wanted, suspect, files):
        receipt = receipts[cell]
        key = layout.receipt(*cell, receipt.fingerprint)
        version = _version(key, cell, files)
        if not version or receipt_at(key, files) != receipt:
            continue
        # Once more, now that the receipt's version is known.
        still = dict(_problems([one for one in wanted if one.cell == cell], suspect, files)).get(cell)
        if still and _version(key, cell, files) == version:
            sentences[cell] = f"{problem} {_retire(cell, receipt.fingerprint, version, run_id, files)}"
    meant = suspect.cell if suspect is not None else next(iter(sentences), None)
    return sentences.get(meant, "") if meant else ""


def retire_unreadable(cell: Cell, fingerprint: str, *, run_id: str, files: Files) -> str:
    """Retires a receipt that cannot be read, and returns what became of that. Raises StoreFailed."""
    key = layout.receipt(*cell, fingerprint)
    version = _version(key, cell, files)
    if not version or receipt_at(key, files) is not None or _version(key, cell, files) != version:
        return "Run the same command again."
    return _retire(cell, fingerprint, version, run_id, files)


def _retire(cell: Cell, fingerprint: str, version: str, run_id: str, files: Files) -> str:
    """Writes it down, and returns a sentence on what comes of it."""
    noted = Retirement(run_id=run_id, receipts={cell[0]: [(cell[1], fingerprint, version, False)]}, untrue=True)
    try:
        files.write(layout.untrue(run_id, *cell), noted.to_bytes())
        LOGGER.warning("retired receipt", step=cell[0], sample=cell[1], fingerprint=fingerprint, version=version)
    except StoreFailed as error:
        key = layout.receipt(*cell, fingerprint)
        return f"That could not be noted ({error.message}): remove {files.url_of(key)} and run again."
    return f"{cell[0]} of {cell[1]} is not done any more; the next command that includes it makes it again."


def _problems(wanted: Sequence[FileToStage], suspect: FileToStage | None, files: Files) -> Iterator[tuple[Cell, str]]:
    """Each cell of which a file is not what it should be, with a sentence about the first such file."""
    reported: set[Cell] = set()
    for one in sorted(wanted, key=lambda one: one is not suspect):
        if one.cell is None or one.cell in reported:
            continue
        if problem := _problem(one, files, is_suspect=one is suspect):
            reported.add(one.cell)
            yield one.cell, f"{files.url_of(one.key)} is not what its receipt says: {problem}."


def _problem(one: FileToStage, files: Files, *, is_suspect: bool) -> str:
    try:
        size_bytes, version = files.look(one.key)
        if size_bytes != one.size_bytes:
            return f"it has {size_bytes:,} bytes instead of {one.size_bytes:,}"
        is_known = version == one.version if one.version else not files.parallel
        is_read = not is_known and (is_suspect or not files.parallel)
        return "it has other bytes" if is_read and files.digest(one.key)[1] != one.sha256 else ""
    except NotInStore:
        return "it is not there"


def _version(key: str, cell: Cell, files: Files) -> str:
    return files.versions_in(layout.receipts(*cell)).get(key, "")
