"""Opens a store and does the few things with it that obstore does not do in one call.

A store is a prefix in S3 (`s3://bucket/prefix`), a folder (`file:///folder` or a path) or memory (`memory://name`, for
tests; shared within the process). obstore does all the work, and tries again what S3 was too busy for; errors are
translated here, once: absent is `NotInStore`, anything else `StoreFailed`. An ETag says that an object changed, and
nothing of its content: with SSE-KMS, and of objects that came in parts, it is no digest. Calls are counted, because the
number of calls is a promise of the planner.

(Longer than most modules: nothing else knows obstore, its errors and the three kinds of store.)
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, S3Store

from batch_pipeline.wire import durable, s3
from batch_pipeline.wire.errors import DiskFull, InvalidConfig, StoreFailed
from batch_pipeline.wire.s3 import S3Access

#: Bytes a piece of a streamed download has at least.
STREAM_PIECE = 4 << 20

#: Keys a LIST page holds, S3's own number: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
LIST_PAGE = 1000

#: Names in a folder of this machine up to which each is looked at; of more, the folder is read.
FEW_NAMES = 32

#: A key that no object ever has.
_NO_OBJECT = "no-object"

#: Objects up to so many bytes may be read again to learn who wrote them.
CLAIM = 4096


class NotInStore(StoreFailed):
    """The object is not in the store."""

    transient = False


class StoreEntry(NamedTuple):
    """One object as a listing shows it. A tuple: listings make millions of them."""

    #: Relative to the store's prefix.
    key: str
    size_bytes: int
    #: Changes when the object changes; not a content hash. Without quotes.
    etag: str


_MEMORY: dict[str, MemoryStore] = {}
_MEMORY_LOCK = threading.Lock()


class Store:
    """A prefix that holds everything of a pipeline. Safe to share between threads.

    `calls` counts requests by kind (`list` counts pages of 1,000, as S3 bills them).
    """

    def __init__(
        self,
        url: str,
        backend: Any,
        folder: Path | None,
        *,
        access: S3Access | None = None,
        reach: Callable[[], S3Access] = S3Access.from_environment,
    ) -> None:
        self.url = url
        #: The obstore object, for streaming uploads and downloads.
        self.backend = backend
        #: The folder when the store is one, else None: a file can then be linked or renamed instead of copied.
        self.folder = folder
        self.calls: Counter[str] = Counter()
        self._is_s3 = access is not None
        #: Whether what answers was found to be S3.
        self._is_known = False
        #: How S3 was reached, by this store or one beside it; None: not at all.
        self._access = access
        self._reach = reach

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def url_of(self, key: str) -> str:
        """The full URL of a key, as another machine with access would open it."""
        return f"{self.url.rstrip('/')}/{quote(key, safe='/+=@:,')}"

    def path_of(self, key: str) -> Path | None:
        """The file behind a key when the store is a folder."""
        return None if self.folder is None else self.folder / key

    def beside(self, location: str) -> Store:
        """Another store, reached in the same way as this one. Raises as `open_store`."""
        other = open_store(location, reach=self._reach)
        self._access = self._access or other._access
        return other

    @property
    def variables(self) -> dict[str, str]:
        """The variables that a job needs beside its role to reach this store and those opened beside it."""
        return {} if self._access is None else self._access.variables()

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises NotInStore, StoreFailed."""
        with self._call("get", key):
            return bytes(obstore.get(self.backend, key).bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`. Raises NotInStore, StoreFailed."""
        with self._call("get", key):
            return bytes(obstore.get_range(self.backend, key, start=start, length=length))

    def get_json(self, key: str) -> Any:
        """The object parsed as JSON. Raises NotInStore, StoreFailed (also when it is no JSON)."""
        data = self.get(key)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreFailed(f"{self.url_of(key)} is not valid JSON ({error}); it was damaged: remove it.") from error

    def head(self, key: str) -> StoreEntry:
        """The object as a listing shows it. Raises NotInStore, StoreFailed."""
        with self._call("head", key):
            return _entry(obstore.head(self.backend, key))

    def stream(self, key: str, span: tuple[int, int] | None = None) -> tuple[StoreEntry, Iterator[bytes]]:
        """The object as a listing shows it, and its bytes in pieces. Raises NotInStore, StoreFailed, also later.

        `span` is a first byte and the one after the last, of an object that has them.
        """
        with self._call("get", key):
            result = obstore.get(self.backend, key, options=None if span is None else {"range": span})
        return _entry(result.meta), self._pieces(key, result)

    def put(self, key: str, data: bytes) -> None:
        """Writes the object whole: a reader sees the old bytes or the new ones. Raises StoreFailed, DiskFull.

        It lasts: what is written after it is never there without it, be the power cut meanwhile.
        """
        with self._call("put", key):
            if self.folder is not None:
                durable.put(f"{self.folder}/{key}", data, synced=True)
            else:
                s3.retry_on_conflict(lambda: obstore.put(self.backend, key, data))

    def put_json(self, key: str, value: Any) -> None:
        """Writes a JSON value, indented for people. Raises as `put`."""
        self.put(key, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes the object unless there is one: whether it did.

        Of two callers at once with different bytes exactly one is told True. On S3 a request whose answer was lost is
        made again and meets its own object: a small one is known by its bytes.
        """
        with self._call("put", key):
            if self.folder is not None:
                return durable.put_new(f"{self.folder}/{key}", data)
            try:
                s3.retry_on_conflict(lambda: obstore.put(self.backend, key, data, mode="create"))
            except AlreadyExistsError as error:
                if s3.is_conflict(error):
                    raise
            else:
                return True
        return self._is_s3 and len(data) <= CLAIM and self.get(key) == data

    def put_file(self, key: str, path: Path) -> None:
        """Streams a file to the object; large ones go in parts. Raises as `put`."""
        with self._call("put", key):
            if self.folder is not None:
                durable.put_copy(f"{self.folder}/{key}", os.fspath(path), synced=True)
                return
            part = s3.part_bytes(path.stat().st_size)
            s3.retry_on_conflict(lambda: obstore.put(self.backend, key, path, chunk_size=part))

    def delete(self, keys: list[str]) -> None:
        """Removes objects; absent ones are no error."""
        if not keys:
            return
        with self._call("delete", keys[0]):
            try:
                obstore.delete(self.backend, keys)
            except (NotFoundError, FileNotFoundError) as error:
                if s3.is_not_the_object(error):
                    raise
                for key in keys:
                    self._delete_one(key)

    def list(self, prefix: str) -> Iterator[StoreEntry]:
        """Every object under a prefix of whole path segments, in no promised order; empty when there is none."""
        return chain.from_iterable(self.list_pages(prefix))

    def list_pages(self, prefix: str, *, etags: bool = True) -> Iterator[builtins.list[StoreEntry]]:
        """What `list` has, in pages of LIST_PAGE; quicker without ETags."""
        with self._call("list", prefix, count=0):
            seen = 0
            for page in obstore.list(self.backend, prefix.rstrip("/") or None, chunk_size=LIST_PAGE):
                seen += len(page)
                yield [_entry(meta) if etags else StoreEntry(meta["path"], meta["size"], "") for meta in page]
            self.calls["list"] += max(1, -(-seen // LIST_PAGE))
            if not seen:
                self._require_s3(prefix)

    @property
    def is_paged(self) -> bool:
        """Whether a listing costs a call a page of LIST_PAGE keys, and may begin behind any key: so does S3."""
        return self._is_s3

    def page(self, prefix: str, after: str = "") -> tuple[builtins.list[StoreEntry], bool]:
        """The first LIST_PAGE objects under a prefix with keys behind `after`, in order; and whether these are all.

        One call of S3, by `start-after`. Raises StoreFailed.
        """
        with self._call("list", prefix):
            pages = obstore.list(self.backend, prefix.rstrip("/") or None, offset=after or None, chunk_size=LIST_PAGE)
            # A folder's own object, `x/`, comes behind `x-1`, and obstore calls it `x`.
            entries = sorted(_entry(meta) for meta in next(pages, ()))
            if not entries:
                self._require_s3(prefix)
        return entries, len(entries) < LIST_PAGE

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys under a prefix, for callers that need no more."""
        return (entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[StoreEntry]:
        """Every object under a prefix, quicker than by `list` and without ETags."""
        if self.folder is None:
            return chain.from_iterable(self.list_pages(prefix, etags=False))
        return self.named_entries([(prefix, None)])

    def named_entries(self, names_by_prefix: Iterable[tuple[str, Collection[str] | None]]) -> Iterator[StoreEntry]:
        """What has one of the names (None: any) right below its prefix, and all below that, without ETags.

        Only where the store is a folder of this machine; it counts as one listing.
        """
        with self._call("list", "", count=0):
            seen = 0
            for prefix, names in names_by_prefix:
                for entry in _files_below(f"{self.folder}/{prefix.rstrip('/')}", prefix.rstrip("/"), names):
                    seen += 1
                    yield entry
            self.calls["list"] += max(1, -(-seen // LIST_PAGE))

    def version(self, entry: StoreEntry) -> str:
        """Tells one writing of an object from another at the same key.

        The ETag; in a folder without the inode, so that a store that was copied or moved with its times
        (`rsync -a`, `mv`) has the same versions.
        """
        return entry.etag if self.folder is None else entry.etag.partition("-")[2]

    def folders(self, prefix: str) -> builtins.list[str]:
        """Names of the folders right below a prefix; empty when there is none."""
        return self.children(prefix)[0]

    def children(self, prefix: str) -> tuple[builtins.list[str], builtins.list[StoreEntry]]:
        """Names of the folders and the objects right below a prefix; two empty lists when there is nothing."""
        with self._call("list", prefix):
            listing = obstore.list_with_delimiter(self.backend, prefix.rstrip("/") or None)
            self.calls["list"] += max(0, len(listing["common_prefixes"]) + len(listing["objects"]) - 1) // LIST_PAGE
            if not listing["common_prefixes"] and not listing["objects"]:
                self._require_s3(prefix)
        folders = [str(path).rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"]]
        return folders, [_entry(meta) for meta in listing["objects"]]

    def _require_s3(self, prefix: str) -> None:
        """Raises StoreFailed where a web page answers, which obstore takes for an empty listing.

        AWS's own endpoint shows by its certificate that it is S3; another one is asked for an object that is not there.
        """
        if self._is_s3 and self._access is not None and self._access.endpoint and not self._is_known:
            try:
                obstore.head(self.backend, _NO_OBJECT)
            except (NotFoundError, FileNotFoundError):
                self._is_known = True
            else:
                raise s3.no_s3(self.url_of(prefix))

    def _pieces(self, key: str, result: Any) -> Iterator[bytes]:
        with self._call("get", key, count=0):
            for piece in result.stream(min_chunk_size=STREAM_PIECE):
                yield bytes(piece)

    def _delete_one(self, key: str) -> None:
        try:
            obstore.delete(self.backend, key)
        except (NotFoundError, FileNotFoundError):
            pass

    @contextmanager
    def _call(self, kind: str, key: str, count: int = 1) -> Iterator[None]:
        self.calls[kind] += count
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            if self._is_s3 and s3.is_not_the_object(error):
                raise self._translated(key, error) from error
            raise NotInStore(f"{self.url_of(key)} is not in the store.") from error
        except (BaseError, OSError) as error:
            raise self._translated(key, error) from error

    def _translated(self, key: str, error: Exception) -> StoreFailed | DiskFull:
        """Our error for one of obstore's or the system's."""
        url, text = self.url_of(key), str(error).split("\n", 1)[0]
        number = error.errno if isinstance(error, OSError) else None
        if number in durable.NO_SPACE or "os error 28" in str(error):
            return DiskFull(f"No space is left for {url}. Free some and run the same command again.")
        if number in (errno.EACCES, errno.EPERM, errno.EROFS) or "os error 13" in str(error):
            return StoreFailed(f"{url} may not be read or written ({text}). Check the rights on the store.")
        known = s3.translated(url, error) if self._is_s3 else None
        return known or StoreFailed(f"{url}: {text}. Check that the store is there and reachable, and run again.")


def _files_below(folder: str, prefix: str, names: Collection[str] | None = None) -> Iterator[StoreEntry]:
    """Files below a folder, but for those that somebody still writes: their names end in `#digits`, as obstore's do."""
    if names is not None and len(names) <= FEW_NAMES:
        for name in names:
            yield from _files_below(f"{folder}/{name}", f"{prefix}/{name}")
        return
    try:
        scan = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with scan as entries:
        for entry in entries:
            if names is not None and entry.name not in names:
                continue
            key = f"{prefix}/{entry.name}"
            if entry.is_dir():
                yield from _files_below(entry.path, key)
            elif "#" not in entry.name or not durable.is_part(entry.name):
                try:
                    yield StoreEntry(key, entry.stat().st_size, "")
                except FileNotFoundError:
                    continue


def _entry(meta: Any) -> StoreEntry:
    return StoreEntry(meta["path"], meta["size"], (meta["e_tag"] or "").strip('"'))


def open_store(
    location: str,
    *,
    create: bool = False,
    absent_is_empty: bool = False,
    reach: Callable[[], S3Access] = S3Access.from_environment,
) -> Store:
    """Opens the store at a URL or folder.

    A folder must exist unless `create`; with `absent_is_empty`, for readers, one that does not is an empty store.
    `reach` is asked how to reach S3 when the URL needs it; by default the variables of this process say so. Raises
    InvalidConfig for an unknown kind of URL, StoreFailed for a folder that cannot be made, and what `reach` raises.
    """
    scheme = urlsplit(location).scheme if "://" in location else "file"
    if scheme == "s3":
        access, url = reach(), location.rstrip("/")
        try:
            return Store(url, S3Store.from_url(url, **access.options()), None, access=access, reach=reach)
        except BaseError as error:
            raise InvalidConfig(f"The store {location!r} cannot be opened. Write s3://bucket/prefix.") from error
    if scheme == "memory":
        with _MEMORY_LOCK:
            return Store(location, _MEMORY.setdefault(location, MemoryStore()), None, reach=reach)
    if scheme != "file":
        raise InvalidConfig(f"The store {location!r} is neither a folder nor s3://bucket/prefix.")
    path = unquote(urlsplit(location).path) if "://" in location else location
    folder = Path(os.path.abspath(Path(path).expanduser()))
    if create:
        _make_folder(folder)
    url = f"file://{quote(str(folder))}"
    if absent_is_empty and not os.path.lexists(folder):
        return Store(url, MemoryStore(), folder, reach=reach)
    if not folder.is_dir():
        raise StoreFailed(f"The store {folder} is not there. Check the path; `run` makes the folder.")
    return Store(url, LocalStore(folder), folder, reach=reach)


def _make_folder(folder: Path) -> None:
    try:
        durable.make_folder(os.fspath(folder), synced=True)
    except OSError as error:
        raise StoreFailed(f"The store {folder} cannot be made: {error.strerror}. Choose another folder.") from error
