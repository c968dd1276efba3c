"""Answers S3's LIST late, from sorted keys: `python -m benchmarks.listing_server SECONDS (--copy PORT | --made-up N)`.

A process of its own, so that its work is not counted as the reader's. What it lists are either the objects of another
S3 server, in that server's own words, which it reads once; or receipts of three steps that are not there at all, of
which a page is made up as it is asked for. S3 servers for tests sort a whole bucket for every page; here a page costs
the same in a bucket of any size.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote
from urllib.request import urlopen

import tornado.httpserver
import tornado.netutil
import tornado.web

from batch_pipeline.wire import layout
from batch_pipeline.wire.store import LIST_PAGE

BUCKET: Final = "lab"
PREFIX: Final = "cohort/"
STEPS: Final = ("one", "three", "two")
_ELEMENT = "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
_ELEMENT += "<Size>1000</Size><StorageClass>STANDARD</StorageClass></Contents>"


def sample(number: int) -> str:
    """The name of a sample; names sort as their numbers do."""
    return f"sample-{number:07}"


class MadeUp(Sequence[str]):
    """Keys of the receipts of three steps, sorted, of which none is kept."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(STEPS) * self._samples

    def __getitem__(self, position: int) -> str:  # type: ignore[override]
        step, number = divmod(position, self._samples)
        return f"{PREFIX}{layout.receipt(STEPS[step], sample(number), '0123456789abcdef')}"

    def elements(self, begin: int, end: int) -> list[str]:
        """A page in S3's words."""
        return [_ELEMENT.format(self[position]) for position in range(begin, end)]


class Copied(list[str]):
    """Keys of another server's bucket, sorted, with what it said of each."""

    def __init__(self, port: int) -> None:
        self._elements: list[str] = []
        after = ""
        while True:
            url = f"http://127.0.0.1:{port}/{BUCKET}?list-type=2&start-after={quote(after)}"
            with urlopen(url) as response:
                elements = re.findall(r"<Contents>.*?</Contents>", response.read().decode(), re.DOTALL)
            self._elements += elements
            self += [element.partition("<Key>")[2].partition("</Key>")[0] for element in elements]
            if len(elements) < LIST_PAGE:
                return
            after = self[-1]

    def elements(self, begin: int, end: int) -> list[str]:
        """A page in the server's words."""
        return self._elements[begin:end]


class Lister(tornado.web.RequestHandler):
    """Answers ListObjectsV2; no other object or bucket is there."""

    def initialize(self, keys: MadeUp | Copied, seconds: float) -> None:
        self._keys, self._seconds = keys, seconds

    async def get(self) -> None:
        await asyncio.sleep(self._seconds)
        if self.get_argument("list-type", "") != "2" or self.get_argument("delimiter", ""):
            raise tornado.web.HTTPError(404)
        prefix, after = self.get_argument("prefix", ""), self.get_argument("start-after", "")
        begin = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        last = bisect_left(self._keys, f"{prefix}\U0010ffff")
        end = min(begin + LIST_PAGE, last)
        elements = self._keys.elements(begin, end)
        truncated = "true" if end < last else "false"
        token = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < last else ""
        self.set_header("Content-Type", "application/xml")
        self.finish(
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><KeyCount>{len(elements)}</KeyCount>"
            f"<MaxKeys>{LIST_PAGE}</MaxKeys><IsTruncated>{truncated}</IsTruncated>{token}{''.join(elements)}"
            "</ListBucketResult>"
        )


async def serve(keys: MadeUp | Copied, seconds: float) -> None:
    """Prints the port, on loopback, and answers until it is ended."""
    application = tornado.web.Application([(".*", Lister, {"keys": keys, "seconds": seconds})], log_function=id)
    (listening, *_) = sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    tornado.httpserver.HTTPServer(application).add_sockets(sockets)
    print(listening.getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing_server", description=__doc__)
    parser.add_argument("seconds", type=float, help="that each answer takes")
    parser.add_argument("--copy", type=int, default=0, metavar="PORT", help="of the S3 server whose objects are listed")
    parser.add_argument("--made-up", type=int, default=0, metavar="N", help="samples that are listed")
    options = parser.parse_args()
    keys = Copied(options.copy) if options.copy else MadeUp(options.made_up)
    asyncio.run(serve(keys, options.seconds))


if __name__ == "__main__":
    main()
