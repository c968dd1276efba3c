"""Keeps the first exception of a task of Luigi, which logs it and goes on with the next task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FirstFailure:
    """The first exception within `keeping`, if any."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keeps an exception, unless there was one before, and raises it again."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or error
            raise
