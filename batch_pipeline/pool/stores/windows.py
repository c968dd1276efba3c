"""Candidates that a store over a network has seen and not tried yet, so that most claims need no look at the queue.

What is kept may be stale: a claim is a conditional write, so a task that somebody else took meanwhile costs one refused
write and nothing else. Pilots that look at one queue would all try its head, and nearly all writes would be refused.
Here a refusal drops the window, and from then on the next windows are tried from a random place among the tasks of the
highest priority: pilots come to work at different places of the queue, and one that meets nobody stays in order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from threading import Lock

from batch_pipeline.pool.task import Task

#: How long what was seen is trusted: so long may a task of higher priority have to wait that another host added.
KEPT_SECONDS = 2.0


class Windows:
    """Windows on the parts of a queue. Looks at the host's clock for the age of what it has seen, and for nothing else.

    Threads may share one.
    """

    def __init__(self, look: Callable[[str, bool], Sequence[Task]]) -> None:
        #: The first tasks of a part of the queue, those to claim first foremost. Said that others are there too, it may
        #: look farther back among the tasks of the highest priority.
        self._look = look
        self._lock = Lock()
        self._seen: dict[str, tuple[float, list[Task]]] = {}
        #: Parts in which somebody else was faster.
        self._crowded: set[str] = set()

    def take(self, part: str, count: int) -> list[Task]:
        """Up to `count` candidates of a part, each handed out once; looks anew only if none is left."""
        with self._lock:
            seen_at, tasks = self._seen.pop(part, (0.0, []))
            if not tasks or time.monotonic() - seen_at > KEPT_SECONDS:
                crowded = part in self._crowded
                seen_at, tasks = time.monotonic(), list(self._look(part, crowded))
                tasks = self._begun_elsewhere(tasks) if crowded else tasks
            if len(tasks) > count:
                self._seen[part] = (seen_at, tasks[count:])
            return tasks[:count]

    def familiar(self, parts: Sequence[str]) -> list[str]:
        """The parts, those first in which candidates are known, the others in a random order."""
        with self._lock:
            known = [part for part in parts if part in self._seen]
            others = [part for part in parts if part not in self._seen]
        random.shuffle(others)
        return known + others

    def missed(self, part: str) -> None:
        """Somebody else took a candidate of this part: what was seen of it is stale."""
        with self._lock:
            self._seen.pop(part, None)
            self._crowded.add(part)

    def forget(self) -> None:
        """Forgets all that was seen: there is something new."""
        with self._lock:
            self._seen.clear()

    @staticmethod
    def _begun_elsewhere(tasks: list[Task]) -> list[Task]:
        equal = sum(task.spec.priority == tasks[0].spec.priority for task in tasks)
        start = random.randrange(equal) if equal else 0
        return tasks[start:equal] + tasks[:start] + tasks[equal:]
