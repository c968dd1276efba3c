"""Opens the stores that a job names, and fetches what it runs: a bundle by its digest, or awslabs' file by its URL."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from batch_pipeline.container.files import Files, files_of
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import ContractBroken, InvalidConfig, MissingInput
from batch_pipeline.wire.store import NotInStore, open_store


def opened(url: str, cache: ProcessCache) -> Files:
    """The store at a URL, opened once a process. Raises ContractBroken, StoreFailed."""

    def make() -> Files:
        try:
            with cache.exported():
                return files_of(open_store(url))
        except InvalidConfig as error:
            raise ContractBroken(error.message) from error

    return cache.keep(f"store {url} {cache.identity if url.startswith('s3:') else ''}", make)


def located(url: str, cache: ProcessCache) -> tuple[Files, str]:
    """The store that holds a full URL (or absolute path), and the key there."""
    if "://" not in url:
        return opened("/", cache), url.lstrip("/")
    parts = urlsplit(url)
    root = "/" if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc}"
    return opened(root, cache), unquote(parts.path).lstrip("/")


def fetched(files: Files, key: str, sha256: str) -> bytes:
    """An object's bytes, checked if a digest is given. Raises MissingInput, ContractBroken, StoreFailed."""
    try:
        data = files.read(key)
    except NotInStore as error:
        raise MissingInput(f"{files.url_of(key)} is not there; it holds the code of this job. Submit again.") from error
    if sha256 and sha256_of_bytes(data) != sha256.lower():
        raise ContractBroken(
            f"{files.url_of(key)} does not have the promised SHA-256 {sha256}: it was replaced. Submit again."
        )
    return data
