"""A file as an HTTP response: type, conditional requests, ranges, and the sandbox that a browser puts it in.

https://www.rfc-editor.org/rfc/rfc9110 §13 and §14. Files are made by runs, so a page among them may hold anything: it
is shown in a sandbox without an origin, where it reaches neither this service nor another one. What no browser shows is
offered for saving.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from batch_pipeline.access.service.files import OpenedFile

_TEXT: Final = "text/plain; charset=utf-8"
#: Ending -> type. What is not here is saved and not shown; types are told by us and never guessed by a browser.
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".pdf": "application/pdf",
    ".json": "application/json",
    **dict.fromkeys((".txt", ".tsv", ".csv", ".log", ".md", ".toml", ".yaml", ".yml"), _TEXT),
    **dict.fromkeys((".fa", ".fasta", ".fai", ".gtf", ".gff", ".bed", ".vcf", ".sam", ".sha256", ".patch"), _TEXT),
}
#: Reports of tools hold their scripts and styles in themselves; they may run them, and talk to nobody.
SANDBOX: Final = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline';"
    " img-src data: blob:; font-src data:; connect-src 'none'; form-action 'none'; base-uri 'none';"
    " frame-ancestors 'none'"
)
#: In a sandbox a browser's own viewer of PDFs does not start; a PDF's scripts do not run in the page's origin.
_PDF: Final = "default-src 'none'; style-src 'unsafe-inline'; object-src 'self'; frame-ancestors 'none'"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class FileResponse(StreamingResponse):
    """Streams a file, and closes it whatever becomes of the connection."""

    def __init__(self, file: OpenedFile, start: int, end: int, **more: Any) -> None:
        super().__init__(file.pieces(start, end), **more)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Response.__call__`."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def answer(file: OpenedFile, method: str, conditions: Mapping[str, str]) -> Response:
    """The answer to a GET or HEAD of a file; it closes the file."""
    tag = f'"{file.etag}"'
    headers = _headers(file, tag)
    if _is_known(tag, conditions.get("if-none-match", "")):
        return _empty(file, 304, headers)
    span = _span(conditions, tag, file.size_bytes)
    if span is None:
        return _empty(file, 416, headers | {"Content-Range": f"bytes */{file.size_bytes}"})
    start, end = span
    headers["Content-Length"] = str(end - start)
    partial = (start, end) != (0, file.size_bytes)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    status = 206 if partial else 200
    if method == "HEAD":
        return _empty(file, status, headers)
    return FileResponse(file, start, end, status_code=status, headers=headers)


def type_of(name: str) -> str:
    """The type by a file's name; what no browser shows is `application/octet-stream`."""
    return _TYPES.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")


def _headers(file: OpenedFile, tag: str) -> dict[str, str]:
    kind = type_of(file.name)
    shown = kind != "application/octet-stream"
    return {
        "Content-Type": kind,
        "ETag": tag,
        "Accept-Ranges": "bytes",
        # Kept by the browser of who may see it, and asked about each time.
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{quote(file.name, safe='')}",
        "Content-Security-Policy": _PDF if kind == "application/pdf" else SANDBOX,
    }


def _empty(file: OpenedFile, status: int, headers: Mapping[str, str]) -> Response:
    file.close()
    response = Response(status_code=status)
    for name, value in headers.items():
        response.headers[name] = value
    return response


def _is_known(tag: str, condition: str) -> bool:
    """Whether the client has it: https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2, by the weak comparison."""
    known = [item.strip().removeprefix("W/") for item in condition.split(",")]
    return tag in known or known == ["*"]


def _span(conditions: Mapping[str, str], tag: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None when the file has none of them. What is no single range is all."""
    wanted = _RANGE.fullmatch(conditions.get("range", "").strip())
    if wanted is None or not (wanted[1] or wanted[2]) or conditions.get("if-range", tag).strip() != tag:
        return 0, size
    if not wanted[1]:
        length = min(int(wanted[2]), size)
        return (size - length, size) if length else None
    start = int(wanted[1])
    if wanted[2] and int(wanted[2]) < start:
        return 0, size
    end = min(int(wanted[2]) + 1, size) if wanted[2] else size
    return (start, end) if start < size else None
