"""`logs.mode = "store"`: of a log the stream gets head and tail, the store all of it; memory stays flat."""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from batch_pipeline.container.log_excerpt import HEAD_BYTES, HEAD_LINES, TAIL_BYTES, TAIL_LINES, LogExcerpt
from batch_pipeline.container.logger import without_log_lines
from tests.container.test_process import impatient, wait_for

if TYPE_CHECKING:
    from tests.container.conftest import Workshop

LATER = b"[logs.mode is store: the last 200 lines follow at the end, the whole log will be s3://b/1.log]\n"


def left_out(size_bytes: int, lines: int) -> bytes:
    return f"[logs.mode is store: {size_bytes:,} bytes in {lines:,} lines left out, the whole log is s3://b/1.log]\n".encode()


def printed(pieces: Iterable[bytes]) -> bytes:
    excerpt = LogExcerpt("s3://b/1.log")
    return b"".join(map(excerpt.printed_of, pieces)) + excerpt.end()


def numbered(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


@pytest.mark.parametrize("text", [b"", b"one line\n", b"no end", numbered(1, HEAD_LINES), b"x" * HEAD_BYTES])
def test_a_short_log_is_printed_as_it_is(text: bytes) -> None:
    assert printed([text]) == text
    assert printed(text[i : i + 1] for i in range(len(text))) == text


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 16])
def test_of_a_long_log_head_and_tail_are_printed_whatever_the_pieces(size: int) -> None:
    text = numbered(1, 1000)
    gone = numbered(51, 800)
    expected = numbered(1, 50) + LATER + left_out(len(gone), 750) + numbered(801, 1000)
    assert printed(text[i : i + size] for i in range(0, len(text), size)) == expected


def test_where_head_and_tail_are_all_nothing_is_said_to_be_left_out() -> None:
    text = numbered(1, HEAD_LINES + TAIL_LINES)
    assert printed([text]) == numbered(1, 50) + LATER + numbered(51, 250)
    assert printed([text, b"no end"]) == numbered(1, 50) + LATER + left_out(3, 1) + numbered(52, 250) + b"no end"


def test_a_line_without_end_is_cut_to_bytes() -> None:
    text = bytes(range(256)).replace(b"\n", b"") * 4000
    gone = len(text) - HEAD_BYTES - TAIL_BYTES
    expected = text[:HEAD_BYTES] + b"\n" + LATER + left_out(gone, 0) + text[-TAIL_BYTES:]
    assert printed([text]) == expected
    # A tail begins with a whole line, if it has one.
    assert (
        printed([text, b"\nend\n"]) == text[:HEAD_BYTES] + b"\n" + LATER + left_out(gone + TAIL_BYTES + 1, 1) + b"end\n"
    )


def test_after_the_end_all_is_printed_and_nothing_twice() -> None:
    excerpt = LogExcerpt("s3://b/1.log")
    excerpt.printed_of(numbered(1, 1000))
    assert excerpt.end().endswith(numbered(801, 1000))
    assert excerpt.printed_of(b"last words\n") == b"last words\n"
    assert excerpt.end() == b""


def test_memory_is_flat() -> None:
    excerpt, piece = LogExcerpt("s3://b/1.log"), b"0123456789abcde\n" * 4096
    tracemalloc.start()
    try:
        for _ in range(500):
            excerpt.printed_of(piece)
        assert tracemalloc.get_traced_memory()[1] < 8 * TAIL_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.engine
def test_a_cell_prints_head_and_tail_and_leaves_all_in_the_store(folder_workshop: Workshop) -> None:
    script = '#!/bin/sh\nseq 1 100000\ncp "$INPUT_X" y\n'
    process = folder_workshop.start(folder_workshop.script(script, log_excerpt=True))
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert folder_workshop.printed() == numbered(1, 100_000)
    lines = without_log_lines(out).splitlines()
    assert len(lines) < HEAD_LINES + TAIL_LINES + 3
    assert lines[0] == b"1"
    assert b"100000" in lines
    notes = [line for line in lines if line.startswith(b"[logs.mode is store: ")]
    assert len(notes) == 2
    url = folder_workshop.store.url_of("logs/R/copy/s1/1.log").encode()
    assert all(note.endswith(url + b"]") for note in notes)
    # What the container says last is in the tail.
    assert b"wrote receipt" in out


@pytest.mark.engine
def test_a_failure_is_in_the_tail(folder_workshop: Workshop) -> None:
    process = folder_workshop.start(folder_workshop.script("#!/bin/sh\nseq 1 1000; exit 3\n", log_excerpt=True))
    out, _ = process.communicate()
    assert process.returncode == 3
    assert out.endswith(b"\ncopy of s1 failed: step.sh ended with exit code 3: 1000\n")
    assert b"\n500\n" not in out


@pytest.mark.engine
def test_a_signal_has_the_tail_printed_while_the_step_has_its_grace(folder_workshop: Workshop) -> None:
    """Whoever is killed in the middle of it has left head and tail."""
    end = folder_workshop.root / "end"
    trap = f"trap 'echo caught; until test -e {end}; do sleep 0.02; done; exit 1' TERM"
    script = f"#!/bin/sh\n{trap}\nseq 1 1000\nwhile :; do sleep 0.02; done\n"
    process = folder_workshop.start(folder_workshop.script(script, log_excerpt=True))
    wait_for(process, b"logs.mode is store")
    process.send_signal(signal.SIGTERM)
    for word in (b"left out", b"1000", b"caught"):
        wait_for(process, word)
    end.touch()
    process.communicate()
    assert process.returncode == 75


@pytest.mark.engine
def test_an_interrupted_step_leaves_its_log_in_both(folder_workshop: Workshop) -> None:
    script = "#!/bin/sh\nseq 1 1000\nwhile :; do sleep 0.05; done\n"
    process = impatient(folder_workshop, folder_workshop.script(script, log_excerpt=True))
    wait_for(process, b"logs.mode is store")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 75
    assert b"\n1000\n" in out
    assert numbered(1, 1000) in folder_workshop.stored_log()


def test_on_a_machine_of_this_user_all_stays_in_the_file(folder_workshop: Workshop) -> None:
    environment = folder_workshop.script('#!/bin/sh\nseq 1 1000\ncp "$INPUT_X" y\n', log_excerpt=True)
    assert folder_workshop.live(environment) == 0
    assert without_log_lines(folder_workshop.log) == folder_workshop.printed() == numbered(1, 1000)
