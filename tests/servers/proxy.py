"""A TCP proxy of ours before a server: cuts all connections and restores them, or loses answers that were on their way.

It is a process of its own (`python -m tests.servers.proxy PORT`), so that tests may fork beside it. It obeys lines on
its standard input, and answers each with a line.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Proxy:
    """A proxy, seen from a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def tell(self, order: str) -> int:
        """An order, and how many answers were lost so far.

        `cut`: ends all connections and takes no new ones, until `restore`. `lose N`: breaks the connection instead of
        passing on the next N answers. `trouble N`: all of it N times, half a second apart.
        """
        assert self._process.stdin
        print(order, file=self._process.stdin, flush=True)
        return int(self._line())


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy before a server of this host."""
    command = [sys.executable, "-m", "tests.servers.proxy", str(port)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Proxy(process)
        finally:
            process.kill()


class _Relay:
    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._to_lose = 0
        self.port = 0
        self.lost = 0

    async def trouble(self, count: int) -> None:
        for _ in range(count):
            self.lose(2)
            await asyncio.sleep(0.4)
            await self.cut()
            await asyncio.sleep(0.1)
            await self.restore()

    async def restore(self) -> None:
        # While nobody listens, a client's connection may get this very number as its own, and connects to itself. No
        # system hands these numbers out to clients.
        for port in [self.port] if self.port else random.sample(range(20_000, 30_000), 100):
            try:
                self._listener = await asyncio.start_server(self._accept, "127.0.0.1", port)
            except OSError:
                continue
            self.port = port
            return
        raise AssertionError(f"The proxy cannot listen again on port {self.port}.")

    async def cut(self) -> None:
        if self._listener:
            self._listener.close()
            self._listener = None
        self._break(self._open)

    def lose(self, count: int) -> None:
        self._to_lose = count

    def _break(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        pair = {writer, to_server}
        self._open |= pair
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, to_server, pair, answers=False))
                both.create_task(self._pass_on(from_server, writer, pair, answers=True))
        except* ConnectionError:
            pass
        finally:
            self._break(pair)
            self._open -= pair

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: set[asyncio.StreamWriter], answers: bool
    ) -> None:
        while some := await reader.read(1 << 16):
            if answers and self._to_lose:
                self._to_lose -= 1
                self.lost += 1
                break
            writer.write(some)
            await writer.drain()
        self._break(pair)


async def _serve(server_port: int) -> None:
    relay = _Relay(server_port)
    await relay.restore()
    print(relay.port, flush=True)
    troubles = []
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        if line[0] == "cut":
            await relay.cut()
        elif line[0] == "restore":
            await relay.restore()
        elif line[0] == "lose":
            relay.lose(int(line[1]))
        elif line[0] == "trouble":
            troubles.append(asyncio.create_task(relay.trouble(int(line[1]))))
        print(relay.lost, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
