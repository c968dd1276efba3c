"""What a process keeps between lives, so that thousands of small cells do not pay for the same things again.

Opened stores, manifests, unpacked bundles and imported steps, each under a key that names its content: nothing in
here can go stale. The oldest go first when there are many, since a worker may live for days.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TypeVar, cast

T = TypeVar("T")

#: Things kept at once.
MOST = 256
#: Set by a worker that lives many lives, calls `tidy` after each and `cool` at its end.
LASTS = "lasts"
SPARES = "spares"
LATER = "later"


class Warm:
    """A typed view of the dictionary that the worker keeps, for a life with this environment."""

    def __init__(self, things: MutableMapping[str, object], environment: Mapping[str, str]) -> None:
        self._things = things
        self._environment = environment
        #: Whether the process goes on to other lives for sure, and says when it does not: `cool`.
        self.lasts = bool(things.get(LASTS))
        #: Scratch root -> emptied folder for the next cell.
        self.spares = cast(MutableMapping[str, str], things.setdefault(SPARES, {}))
        self._later = cast(list[Callable[[], None]], things.setdefault(LATER, []))

    @property
    def identity(self) -> str:
        """Tells apart lives that reach S3 in different ways."""
        return repr(sorted(_aws(self._environment).items()))

    def afterwards(self, act: Callable[[], None]) -> None:
        """Has something done that nobody waits for: by `tidy`, where that will be called, else at once."""
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
            del self._things[next(key for key in self._things if key not in (LASTS, SPARES, LATER))]
        self._things[key] = thing
        return thing


def tidy(things: MutableMapping[str, object]) -> None:
    """Does what lives left for after them; a process that lasts calls it between two lives."""
    later = cast(list[Callable[[], None]], things.get(LATER, []))
    while later:
        later.pop()()


def cool(things: MutableMapping[str, object]) -> None:
    """Removes what was put by on the disk for further lives, when there will be none."""
    tidy(things)
    from batch_pipeline.container.disk import remove_tree

    for folder in cast(Mapping[str, str], things.get(SPARES, {})).values():
        remove_tree(folder)


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
