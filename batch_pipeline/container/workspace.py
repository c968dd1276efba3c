"""The scratch folder of one attempt, below that of its process: made, put by for the next cell, or removed."""

from __future__ import annotations

import os

from batch_pipeline.container.disk import PRIVATE, local_error, put_by
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.wire.scratch import remove_tree


class Workspace:
    """The folder of one attempt: inputs in `in-{port}/`, and the working directory of the step."""

    def __init__(self, root: str, name: str, cache: ProcessCache) -> None:
        self._root = root
        self._name = name
        self._cache = cache
        #: Empty until it is made.
        self.path = ""

    @property
    def work(self) -> str:
        """The step's working directory."""
        return f"{self.path}/work"

    @property
    def code(self) -> str:
        """The folder of this process for bundles, one a digest."""
        return f"{os.path.dirname(self.path)}/code"

    def make(self) -> None:
        """Makes both folders. Raises UnsafeFolder, DiskFull, StoreFailed."""
        folder = self._cache.scratch(self._root)
        path = f"{folder}/{self._name}"
        try:
            try:
                # What the last cell of this process put by.
                os.rename(_spare(folder), path)
            except FileNotFoundError:
                os.mkdir(path, PRIVATE)
            self.path = path
            os.mkdir(self.work, PRIVATE)
        except OSError as error:
            raise local_error(path, error) from error

    def empty(self) -> None:
        """Removes the folder at once: a record is to be written, and the disk is full."""
        remove_tree(self.path)

    def clear(self) -> None:
        """Removes the folder, or puts the empty folders of its inputs by for the next cell of this process.

        The working directory always goes: what outlived the step must not write into another cell's.
        """
        if self.path and self._cache.lasts:
            remove_tree(self.work)
            if not put_by(self.path, _spare(os.path.dirname(self.path))):
                remove_tree(self.path)
        self._cache.release(self._root)


def _spare(folder: str) -> str:
    return f"{folder}/spare"
