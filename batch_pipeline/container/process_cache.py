"""The cache of a process that lives many lives: thousands of small cells do not pay for the same things again.

Opened stores, manifests, unpacked bundles and imported steps, each under a key that names its content: nothing in
here can go stale. The oldest go first when there are many, since a worker may live for days. And the process's folders
for scratch, one a root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TypeVar, cast

from batch_pipeline.container.disk import local_error
from batch_pipeline.wire.durable import Seal
from batch_pipeline.wire.scratch import Scratch, sweep

T = TypeVar("T")

#: Things kept at once.
MOST = 256
#: Set by a worker that lives many lives, calls `run_deferred` after each and `shut_down` at its end.
LASTS = "lasts"
PLACES = "places"
LATER = "later"
#: Set for a life whose receipt the caller will seal, together with those of other processes.
SEALS = "seals"


class ProcessCache:
    """A typed view of the dictionary that the worker keeps, for a life with this environment."""

    def __init__(self, things: MutableMapping[str, object], environment: Mapping[str, str]) -> None:
        self._things = things
        self._environment = environment
        #: Whether the process goes on to other lives for sure, and says when it does not: `shut_down`.
        self.lasts = bool(things.get(LASTS))
        self._places = cast(MutableMapping[str, Scratch], things.setdefault(PLACES, {}))
        self._later = cast(list[Callable[[], None]], things.setdefault(LATER, []))

    @property
    def identity(self) -> str:
        """Tells apart lives that reach S3 in different ways."""
        return repr(sorted(_aws(self._environment).items()))

    def scratch(self, root: str) -> str:
        """This process's folder below a root, made at first use. Raises UnsafeFolder, DiskFull, StoreFailed.

        Who makes one removes what processes left that were killed; where a process lasts, its server does.
        """
        try:
            kept = self._places.get(root)
            if kept is not None and not kept.is_intact():
                self._places.pop(root).forget()
                kept = None
            if kept is None:
                if not self.lasts:
                    sweep(root)
                kept = self._places[root] = Scratch(root)
        except OSError as error:
            raise local_error(root, error) from error
        return kept.path

    def release(self, root: str) -> None:
        """Removes this process's folder, unless the process lasts."""
        if not self.lasts and root in self._places:
            self._places.pop(root).close()

    def hand_over(self, seal: Seal) -> bool:
        """Leaves a receipt to be sealed to whoever called this life, if that was offered."""
        seals = cast(list[Seal] | None, self._things.get(SEALS))
        if seals is None:
            return False
        seals.append(seal)
        return True

    def defer(self, act: Callable[[], None]) -> None:
        """Has something done that nobody waits for: by `run_deferred`, where that will be called, else at once."""
        if self.lasts:
            self._later.append(act)
        else:
            act()

    @contextmanager
    def exported(self) -> Iterator[None]:
        """While it lasts, this process reaches S3 as the life's environment says; obstore looks when it opens."""
        before, ours = _aws(os.environ), _aws(self._environment)
        try:
            _replace(before, ours)
            yield
        finally:
            _replace(ours, before)

    def keep(self, key: str, make: Callable[[], T]) -> T:
        """The thing under a key, made at first use. What `make` raises is raised and not kept."""
        try:
            return cast(T, self._things[key])
        except KeyError:
            pass
        thing = make()
        while len(self._things) >= MOST:
            del self._things[next(key for key in self._things if key not in (LASTS, PLACES, LATER, SEALS))]
        self._things[key] = thing
        return thing


def run_deferred(things: MutableMapping[str, object]) -> None:
    """Does what lives left for after them; a process that lasts calls it between two lives."""
    later = cast(list[Callable[[], None]], things.get(LATER, []))
    while later:
        later.pop()()


def shut_down(things: MutableMapping[str, object]) -> None:
    """Removes what was put by on the disk for further lives, when there will be none."""
    run_deferred(things)
    places = cast(MutableMapping[str, Scratch], things.get(PLACES, {}))
    while places:
        places.popitem()[1].close()


def _aws(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("AWS_") and not name.startswith("AWS_BATCH_")
    }


def _replace(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    for name in old.keys() - new.keys():
        os.environ.pop(name, None)
    os.environ.update(new)
