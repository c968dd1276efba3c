"""Lists what chosen cells have in a store: the one reader of receipts, sources, results and logs.

Cost follows what is asked. On S3 the wanted places are divided into ranges, listed in parallel (`start-after`) with at
most PAGES_AT_ONCE calls in flight; a page is followed by one that begins at the next wanted place. Where fewer places
are wanted than a page holds, one page is listed first, which often is all; of more, all ranges begin at once. It takes
at most ceil(objects / 1000) calls and one a range, and of many objects no more than one a place that is asked. obstore
retries 503 (SlowDown) with exponential back-off. In a folder of this machine few places are looked at one by one; of
many their folder is read, and what is below the others left alone.

All below a prefix is listed in the same way (`entries_below`): places that are likely to be there say where to divide
it. Entries are handed on as pages come in; none is kept.

(Longer than most modules: what is wanted, and how it is divided, are of no use to anything else.)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, groupby, pairwise
from operator import attrgetter
from os.path import commonprefix
from typing import Final, Protocol

from batch_pipeline.wire.store import FEW_NAMES, LIST_PAGE, NotInStore, Store, StoreEntry

#: LIST calls in flight; S3 takes 5,500 a second below a prefix:
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
PAGES_AT_ONCE: Final = 32
#: Places of a range that begins before anything is known of the store. Fewer than a page holds: where each has one
#: object, the page shows the end of its range too.
PLACES_A_RANGE: Final = LIST_PAGE * 9 // 10
_KEY: Final = attrgetter("key")


class Divisions(Protocol):
    """Where a listing may be divided: prefixes that end in a slash, or keys of objects. Sorted, none below another."""

    @property
    def is_dense(self) -> bool:
        """Whether all keys from one to the next are wanted; else what is below each, which then comes together."""

    @property
    def folder(self) -> str:
        """The deepest folder that holds all."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> str: ...

    def chosen(self, entries: Iterable[StoreEntry]) -> list[StoreEntry]:
        """The entries that are wanted."""


class Places(Divisions, Protocol):
    """What to list."""

    def place_of(self, key: str) -> str:
        """The place that a key belongs to; empty: none."""

    def by_folder(self) -> Iterator[tuple[str, Collection[str]]]:
        """Each folder that holds places, with their names there, without a slash at the end."""


class CellFolders:
    """Folders of cells by the prefix of their step: `receipts/count/` -> samples. Composed as needed, not kept."""

    is_dense = False

    def __init__(self, samples_by_prefix: Mapping[str, Collection[str]]) -> None:
        # Steps of one cohort share its names.
        shared = {id(samples): frozenset(samples) for samples in samples_by_prefix.values()}
        self._prefixes = sorted(prefix for prefix, samples in samples_by_prefix.items() if samples)
        self._members = {prefix: shared[id(samples_by_prefix[prefix])] for prefix in self._prefixes}
        self._ends = list(accumulate(map(len, self._members.values())))
        #: Keys come sorted: the prefix of the last one is mostly the next one's.
        self._prefix, self._begin, self._here = "\0", 0, frozenset[str]()

    @cached_property
    def _names(self) -> list[list[str]]:
        """The samples of each prefix as their folders are sorted; only pages need them so."""
        ordered = {
            one: sorted(names, key=lambda name: f"{name}/")
            for one, names in {id(names): names for names in self._members.values()}.items()
        }
        return [ordered[id(self._members[prefix])] for prefix in self._prefixes]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, position: int, /) -> str:
        step = bisect_right(self._ends, position)
        return f"{self._prefixes[step]}{self._names[step][position - self._ends[step]]}/"

    def place_of(self, key: str) -> str:
        """See `Places.place_of`."""
        if not key.startswith(self._prefix):
            at = bisect_right(self._prefixes, key) - 1
            if at < 0 or not key.startswith(self._prefixes[at]):
                return ""
            self._prefix = self._prefixes[at]
            self._begin, self._here = len(self._prefix), self._members[self._prefix]
        end = key.find("/", self._begin)
        return key[: end + 1] if end >= 0 and key[self._begin : end] in self._here else ""

    def chosen(self, entries: Iterable[StoreEntry]) -> list[StoreEntry]:
        """See `Divisions.chosen`."""
        chosen = []
        prefix, begin, here = self._prefix, self._begin, self._here
        for entry in entries:
            key = entry[0]
            # Most are of the step of the one before.
            if key[:begin] == prefix and (end := key.find("/", begin)) >= 0:
                if key[begin:end] in here:
                    chosen.append(entry)
                continue
            if self.place_of(key):
                chosen.append(entry)
            prefix, begin, here = self._prefix, self._begin, self._here
        return chosen

    @property
    def folder(self) -> str:
        """See `Divisions.folder`."""
        return _folder_above(self._prefixes[0], self._prefixes[-1])

    def by_folder(self) -> Iterator[tuple[str, Collection[str]]]:
        """See `Places.by_folder`."""
        yield from self._members.items()


class FileKeys:
    """Single objects by their keys."""

    is_dense = False

    def __init__(self, keys: Iterable[str]) -> None:
        self._members = frozenset(keys)
        self._keys = sorted(self._members)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, position: int, /) -> str:
        return self._keys[position]

    def place_of(self, key: str) -> str:
        """See `Places.place_of`."""
        return key if key in self._members else ""

    def chosen(self, entries: Iterable[StoreEntry]) -> list[StoreEntry]:
        """See `Divisions.chosen`."""
        return [entry for entry in entries if entry.key in self._members]

    @property
    def folder(self) -> str:
        """See `Divisions.folder`."""
        return _folder_above(self._keys[0], self._keys[-1])

    def by_folder(self) -> Iterator[tuple[str, Collection[str]]]:
        """See `Places.by_folder`."""
        names: dict[str, set[str]] = {}
        for key in self._keys:
            folder, slash, name = key.rpartition("/")
            names.setdefault(f"{folder}{slash}", set()).add(name)
        yield from names.items()


class _WholeFolder:
    """All below a folder, divided at other places, of which none needs to be there."""

    is_dense = True

    def __init__(self, folder: str, places: Places) -> None:
        self.folder = folder.rstrip("/")
        self._places = places

    def __len__(self) -> int:
        return 1 + len(self._places)

    def __getitem__(self, position: int, /) -> str:
        return self._places[position - 1] if position else f"{self.folder}/"

    def chosen(self, entries: Iterable[StoreEntry]) -> list[StoreEntry]:
        """See `Divisions.chosen`."""
        return list(entries)


@dataclass(kw_only=True)
class _Range:
    """Places that are listed one page after another."""

    start: int
    stop: int
    #: The next page holds keys behind this one.
    after: str
    #: Entries of the place in which the last page ended.
    held: list[StoreEntry] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.stop - self.start


def entries_of(store: Store, places: Places, *, etags: bool = True) -> Iterator[Iterable[StoreEntry]]:
    """The entries of all places, in portions of whole places: those of one come together, places in no promised order.

    Without `etags` a folder of this machine is read more quickly, and its entries have none. Raises StoreFailed.
    """
    if not len(places):
        return
    if store.is_paged:
        yield from _paged(store, places)
        return
    if store.folder is not None:
        yield (entry for entry in _in_folder(store, places, etags) if places.place_of(entry.key))
        return
    yield chain.from_iterable(map(places.chosen, store.list_pages(places.folder, etags=etags)))


def entries_below(
    store: Store, prefix: str, likely: Callable[[], Places], *, etags: bool = True
) -> Iterator[Iterable[StoreEntry]]:
    """All entries below a prefix that ends in a slash, in no promised order.

    Where one page is not all, the rest is divided at places below the prefix that are `likely` to be there. They change
    how quick it is, and nothing of what is listed. Raises StoreFailed.
    """
    if not store.is_paged:
        yield store.list(prefix) if etags else store.entries(prefix)
        return
    entries, is_last = store.page(prefix)
    yield entries
    if is_last:
        return
    whole = _WholeFolder(prefix, likely())
    after = entries[-1].key
    rest = _Range(start=bisect_right(whole, after) - 1, stop=len(whole), after=after)
    yield from _in_ranges(store, whole, _divided(whole, rest, _ranges_for(rest)))


def by_place(places: Places, portions: Iterable[Iterable[StoreEntry]]) -> Iterator[list[StoreEntry]]:
    """What `entries_of` yields, place by place."""
    for portion in portions:
        for _, group in groupby(portion, key=lambda entry: places.place_of(entry.key)):
            yield list(group)


def _in_folder(store: Store, places: Places, etags: bool) -> Iterator[StoreEntry]:
    """The entries of a folder of this machine, those of a place together."""
    is_file = isinstance(places, FileKeys)
    if not (etags or is_file):
        yield from store.named_entries(places.by_folder())
        return
    for folder, names in places.by_folder():
        if len(names) > FEW_NAMES:
            yield from store.list(folder)
        elif is_file:
            for name in sorted(names):
                try:
                    yield store.head(f"{folder}{name}")
                except NotInStore:
                    continue
        else:
            for name in names:
                yield from store.list(f"{folder}{name}")


def _paged(store: Store, divisions: Divisions) -> Iterator[list[StoreEntry]]:
    whole = _Range(start=0, stop=len(divisions), after=_before(divisions[0]))
    if whole.left > LIST_PAGE:
        ranges = _divided(divisions, whole, min(PAGES_AT_ONCE, -(-whole.left // PLACES_A_RANGE)))
        yield from _in_ranges(store, divisions, ranges)
        return
    yield _portion(divisions, whole, *_page(store, divisions, whole))
    if whole.left:
        yield from _in_ranges(store, divisions, _divided(divisions, whole, _ranges_for(whole)))


def _in_ranges(store: Store, divisions: Divisions, waiting: list[_Range]) -> Iterator[list[StoreEntry]]:
    """Lists ranges in parallel, and divides the largest ones again as connections become free."""
    pages = done = 0
    pool = ThreadPoolExecutor(PAGES_AT_ONCE, thread_name_prefix="listing")
    try:
        running: dict[Future[tuple[list[StoreEntry], bool]], _Range] = {}
        while True:
            running |= {pool.submit(_page, store, divisions, one): one for one in waiting}
            if not running:
                return
            waiting = []
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                one = running.pop(future)
                start = one.start
                yield _portion(divisions, one, *future.result())
                pages, done = pages + 1, done + one.start - start
                if one.left:
                    waiting.append(one)
            # A free connection takes half of the range with most left, so that all end together.
            while len(running) + len(waiting) < PAGES_AT_ONCE:
                largest = max((*running.values(), *waiting), key=lambda one: one.left, default=None)
                if largest is None or largest.left < 2 or largest.left * pages <= 2 * done:
                    break
                waiting += _divided(divisions, largest, 2)[1:]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ranges_for(rest: _Range) -> int:
    """How many ranges what is left behind a first page is worth: one for each page, if they hold as much."""
    return min(PAGES_AT_ONCE, -(-rest.left // max(1, rest.start)))


def _divided(divisions: Divisions, whole: _Range, count: int) -> list[_Range]:
    """A range in so many, the first of which is itself."""
    bounds = [whole.start + whole.left * number // count for number in range(1, count + 1)]
    later = [_Range(start=start, stop=stop, after=_before(divisions[start])) for start, stop in pairwise(bounds)]
    whole.stop = bounds[0]
    return [whole, *later]


def _page(store: Store, divisions: Divisions, one: _Range) -> tuple[list[StoreEntry], bool]:
    folder = divisions.folder if divisions.is_dense else _folder_above(divisions[one.start], divisions[one.stop - 1])
    return store.page(folder, one.after)


def _portion(divisions: Divisions, one: _Range, entries: list[StoreEntry], is_last: bool) -> list[StoreEntry]:
    """The entries of the places that a page ends; the range goes on behind it."""
    begin = bisect_left(entries, divisions[one.start], key=_KEY)
    end = bisect_left(entries, divisions[one.stop], key=_KEY) if one.stop < len(divisions) else len(entries)
    wanted = [*one.held, *divisions.chosen(entries[begin:end])]
    one.held = []
    if is_last:
        one.start = one.stop
        return wanted
    last = entries[-1].key
    at = bisect_right(divisions, last, one.start, one.stop)
    one.start = at - (at > one.start and _goes_on(divisions, at - 1, last))
    is_open = one.start < at
    if one.left:
        one.after = max(last, _before(divisions[one.start]))
    if one.left and is_open and not divisions.is_dense:
        cut = bisect_left(wanted, divisions[one.start], key=_KEY)
        one.held = wanted[cut:]
        return wanted[:cut]
    return wanted


def _goes_on(divisions: Divisions, position: int, last: str) -> bool:
    """Whether a place may have keys behind `last`, with which a page ends."""
    if divisions.is_dense:
        return position + 1 == len(divisions) or last < divisions[position + 1]
    return divisions[position].endswith("/") and last.startswith(divisions[position])


def _folder_above(first: str, last: str) -> str:
    """The deepest folder that holds all between two keys."""
    # Not `commonpath`: a single file's is the file.
    return commonprefix([first, last]).rpartition("/")[0]  # noqa: RUF071


def _before(place: str) -> str:
    """A key before a place, and behind nearly all that come before it: `s1/` comes behind `s1-b/` and `s1.c/`."""
    # No key has two slashes in a row, or a control character.
    last = chr(ord(place[-1]) - 1).replace("/", ".")
    return f"{place[:-1]}{last}~" if " " <= last <= "~" else place[:-1]
