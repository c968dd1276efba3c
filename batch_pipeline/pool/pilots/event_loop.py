"""What a pilot's loop waits for: commands that end, work of threads that is done, signals. One epoll for all.

The loop owns all state, so nothing of it needs a lock: threads and handlers of signals only hand it what it is to do.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from batch_pipeline.wire.errors import BatchPipelineError

_Result = TypeVar("_Result")


class EventLoop:
    """Wakes its owner when a command has ended, or when there is something to call. `threads`: works at once."""

    def __init__(self, threads: int) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._callbacks: deque[Callable[[], None]] = deque()
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="pilot")

    @classmethod
    @contextmanager
    def running(cls, threads: int) -> Iterator[Self]:
        """A context; at its end threads are waited for, what they have not begun is dropped."""
        loop = cls(threads)
        try:
            yield loop
        finally:
            loop.finish_threads()
            loop._epoll.close()
            os.close(loop._wake)

    def finish_threads(self) -> None:
        """Waits for what threads are at; drops what they have not begun. May be called again."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def watch(self, descriptor: int) -> None:
        """Has `wait` report when a command has ended, by its process descriptor."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Watches a command no longer."""
        self._epoll.unregister(descriptor)

    def wait(self, timeout: float | None) -> list[int]:
        """Waits for an event, at most so many seconds; returns the descriptors of commands that have ended."""
        ended = []
        for descriptor, _ in self._epoll.poll(timeout):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            else:
                ended.append(descriptor)
        return ended

    def call_later(self, act: Callable[[], None]) -> None:
        """Has the loop call something; from any thread, or a signal's handler."""
        self._callbacks.append(act)
        os.eventfd_write(self._wake, 1)

    def call_due(self) -> None:
        """Calls what is to be called."""
        while self._callbacks:
            self._callbacks.popleft()()

    def in_thread(
        self, act: Callable[[], _Result], then: Callable[[_Result], None], failed: Callable[[Exception], None]
    ) -> None:
        """Does something in a thread, and the rest in the loop."""

        def work() -> None:
            try:
                result = act()
            except (BatchPipelineError, OSError) as error:
                # Python forgets `error` at the end of this block, before the loop asks for it.
                raised = error
                self.call_later(lambda: failed(raised))
            else:
                self.call_later(lambda: then(result))

        self._threads.submit(work)

    def in_background(self, act: Callable[..., object], *arguments: Any) -> None:
        """Does something in a thread that the loop does not wait for."""
        self._threads.submit(act, *arguments)
