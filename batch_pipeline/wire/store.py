"""Opens a store and does the few things with it that obstore does not do in one call.

A store is a prefix in S3 (`s3://bucket/prefix`), a folder (`file:///folder` or a path) or memory (`memory://name`, for
tests; shared within the process). obstore does all the work; errors are translated here, once: absent is `NotInStore`,
anything else `StoreFailed`. Calls are counted, because the number of calls is a promise of the planner.
"""

from __future__ import annotations

import builtins
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, S3Store

from batch_pipeline.wire.errors import DiskFull, InvalidConfig, StoreFailed

#: Bytes a piece of a streamed download has at least.
STREAM_PIECE = 4 << 20

#: Keys a LIST page holds, S3's own number: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
LIST_PAGE = 1000


class NotInStore(StoreFailed):
    """The object is not in the store."""

    transient = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One object as a listing shows it."""

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

    def __init__(self, url: str, backend: Any, folder: Path | None) -> None:
        self.url = url
        #: The obstore object, for streaming uploads and downloads.
        self.backend = backend
        #: The folder when the store is one, else None: a file can then be linked or renamed instead of copied.
        self.folder = folder
        self.calls: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def url_of(self, key: str) -> str:
        """The full URL of a key, as another machine with access would open it."""
        return f"{self.url.rstrip('/')}/{quote(key, safe='/+=@:,')}"

    def path_of(self, key: str) -> Path | None:
        """The file behind a key when the store is a folder."""
        return None if self.folder is None else self.folder / key

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

    def head(self, key: str) -> Entry:
        """The object as a listing shows it. Raises NotInStore, StoreFailed."""
        with self._call("head", key):
            return _entry(obstore.head(self.backend, key))

    def stream(self, key: str) -> tuple[Entry, Iterator[bytes]]:
        """The object as a listing shows it, and its bytes in pieces. Raises NotInStore, StoreFailed, also later."""
        with self._call("get", key):
            result = obstore.get(self.backend, key)
        return _entry(result.meta), self._pieces(key, result)

    def put(self, key: str, data: bytes) -> None:
        """Writes the object whole: a reader sees the old bytes or the new ones. Raises StoreFailed, DiskFull."""
        with self._call("put", key):
            obstore.put(self.backend, key, data)

    def put_json(self, key: str, value: Any) -> None:
        """Writes a JSON value, indented for people. Raises as `put`."""
        self.put(key, json.dumps(value, indent=1, ensure_ascii=False).encode())

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes the object unless there is one: whether it did. Of two callers at once exactly one is told True."""
        with self._call("put", key):
            try:
                obstore.put(self.backend, key, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def put_file(self, key: str, path: Path) -> None:
        """Streams a file to the object; large ones go in parts. Raises as `put`."""
        with self._call("put", key):
            obstore.put(self.backend, key, path)

    def delete(self, keys: list[str]) -> None:
        """Removes objects; absent ones are no error."""
        if not keys:
            return
        with self._call("delete", keys[0]):
            try:
                obstore.delete(self.backend, keys)
            except (NotFoundError, FileNotFoundError):
                for key in keys:
                    self._delete_one(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object under a prefix of whole path segments, in no promised order; empty when there is none."""
        with self._call("list", prefix, count=0):
            seen = 0
            for page in obstore.list(self.backend, prefix.rstrip("/") or None, chunk_size=LIST_PAGE):
                for meta in page:
                    seen += 1
                    yield _entry(meta)
            self.calls["list"] += max(1, -(-seen // LIST_PAGE))

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys under a prefix, for those who need no more: in a folder that is twice as quick as `list`."""
        if self.folder is None:
            yield from (entry.key for entry in self.list(prefix))
            return
        with self._call("list", prefix, count=0):
            seen = 0
            for key in _keys_below(os.path.join(self.folder, prefix.rstrip("/")), prefix.rstrip("/")):
                seen += 1
                yield key
            self.calls["list"] += max(1, -(-seen // LIST_PAGE))

    def folders(self, prefix: str) -> builtins.list[str]:
        """Names of the folders right below a prefix; empty when there is none."""
        with self._call("list", prefix):
            found = obstore.list_with_delimiter(self.backend, prefix.rstrip("/") or None)
        return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"]]

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
            raise NotInStore(f"{self.url_of(key)} is not in the store.") from error
        except (BaseError, OSError) as error:
            raise _translated(self, key, error) from error


def _keys_below(folder: str, prefix: str) -> Iterator[str]:
    """Files below a folder, but for those that somebody still writes: their names end in `#digits`, as obstore's do."""
    try:
        found = os.scandir(folder)
    except FileNotFoundError:
        return
    with found as entries:
        for entry in entries:
            key = f"{prefix}/{entry.name}"
            if entry.is_dir():
                yield from _keys_below(entry.path, key)
            elif not entry.name.rpartition("#")[2].isdigit() or "#" not in entry.name:
                yield key


def _entry(meta: Any) -> Entry:
    return Entry(key=meta["path"], size_bytes=meta["size"], etag=(meta["e_tag"] or "").strip('"'))


def _translated(store: Store, key: str, error: Exception) -> StoreFailed | DiskFull:
    """Our error for one of obstore's."""
    text = str(error).split("\n", 1)[0]
    if "os error 28" in str(error):
        return DiskFull(f"No space is left for {store.url_of(key)}. Free some and run the same command again.")
    if "os error 13" in str(error) or "AccessDenied" in str(error) or "403" in text:
        return StoreFailed(f"{store.url_of(key)} may not be read or written ({text}). Check the rights on the store.")
    return StoreFailed(f"{store.url_of(key)}: {text}. Check that the store is there and reachable, and run again.")


def open_store(location: str, *, create: bool = False) -> Store:
    """Opens the store at a URL or folder.

    A folder must exist unless `create`. S3 takes credentials and endpoint from the environment as boto3 does
    (`AWS_ENDPOINT_URL`). Raises InvalidConfig for an unknown kind of URL, StoreFailed for a folder that cannot be made.
    """
    scheme = urlsplit(location).scheme if "://" in location else "file"
    if scheme == "s3":
        return Store(location.rstrip("/"), S3Store.from_url(location, **_s3_options()), None)
    if scheme == "memory":
        with _MEMORY_LOCK:
            return Store(location, _MEMORY.setdefault(location, MemoryStore()), None)
    if scheme != "file":
        raise InvalidConfig(f"The store {location!r} is neither a folder nor s3://bucket/prefix.")
    path = unquote(urlsplit(location).path) if "://" in location else location
    folder = Path(os.path.abspath(Path(path).expanduser()))
    if create:
        _make_folder(folder)
    if not folder.is_dir():
        raise StoreFailed(f"The store {folder} is not there. Check the path, or create the folder.")
    return Store(f"file://{quote(str(folder))}", LocalStore(folder), folder)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreFailed(f"The store {folder} cannot be made: {error.strerror}. Choose another folder.") from error


def _s3_options() -> dict[str, Any]:
    """What S3Store does not read from the environment in boto3's names."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return {}
    return {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
