"""Opens a pool by its URL. What each kind of store needs is imported no sooner than that.

- `sqlite:///folder/file.sqlite`: a file of this host (`sqlite:file.sqlite`: in the working directory); the default.
- `dynamodb://table`: a table; `?region=` its region, `?endpoint=` the address of a service that stands in for AWS's.
- `couchdb://host:5984/database`: a database over HTTP, `couchdbs://` over HTTPS; who asks is told by reference.
- `memory://name`: for tests; shared within the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from batch_pipeline.pool.base import PoolStore
from batch_pipeline.wire.errors import InvalidUse, PoolFailed

_MEMORY: Final[dict[str, PoolStore]] = {}
_RULE: Final = "Give sqlite:///FILE, dynamodb://TABLE or couchdb://HOST/DATABASE."


def open_pool(url: str, *, create: bool = False, region: str = "", profile: str = "") -> PoolStore:
    """The pool at a URL; with `create` it is made when it is not there.

    Raises
    ------
    InvalidUse
        It is no URL of a pool.
    PoolFailed
        It is not there, or could not be reached.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return _in_memory(parts.netloc)
    if parts.scheme == "sqlite":
        return _in_file(url, create)
    if parts.scheme == "dynamodb" and parts.netloc:
        return _in_table(parts, create, region, profile)
    if parts.scheme in ("couchdb", "couchdbs") and parts.netloc:
        return _in_database(parts, create)
    # It may hold a password.
    shown = f"{parts.scheme}://…" if "@" in url else repr(url)
    raise InvalidUse(f"{shown} names no pool. {_RULE}")


def _in_memory(name: str) -> PoolStore:
    from batch_pipeline.pool.stores.memory import MemoryStore

    return _MEMORY.setdefault(name, MemoryStore())


def _in_file(url: str, create: bool) -> PoolStore:
    from batch_pipeline.pool.stores.sqlite.store import SqliteStore

    path = Path(url.removeprefix("sqlite:").removeprefix("//")).expanduser()
    if not path.name:
        raise InvalidUse(f"{url!r} names no file. {_RULE}")
    if not path.is_file():
        if not create:
            raise PoolFailed(f"There is no pool in {path}. Make one with `pool init`, or name another with --pool.")
        path.parent.mkdir(parents=True, exist_ok=True)
    return SqliteStore(path)


def _in_table(parts: SplitResult, create: bool, region: str, profile: str) -> PoolStore:
    from batch_pipeline.pool.stores.dynamodb.store import DynamoDbStore

    parameters = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if unknown := sorted(parameters.keys() - {"region", "endpoint"}):
        raise InvalidUse(f"The pool's URL asks for {unknown[0]}; dynamodb:// knows region and endpoint.")
    region, endpoint = parameters.get("region", region), parameters.get("endpoint", "")
    return DynamoDbStore(parts.netloc, region=region, profile=profile, endpoint=endpoint, create=create)


def _in_database(parts: SplitResult, create: bool) -> PoolStore:
    from batch_pipeline.pool.stores.couchdb.store import CouchDbStore

    folder, _, database = parts.path.rstrip("/").rpartition("/")
    if not database:
        raise InvalidUse(f"The pool's URL names no database of the CouchDB server. {_RULE}")
    scheme = "https" if parts.scheme == "couchdbs" else "http"
    return CouchDbStore(f"{scheme}://{parts.netloc}{folder}", database, create=create)
