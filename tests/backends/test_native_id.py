"""Ids of jobs and of their children, as text and as values."""

from __future__ import annotations

import pytest

from batch_pipeline.wire.native_id import NativeId

UUID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("text", "job", "index"),
    [
        (UUID, UUID, None),
        (f"{UUID}:0", UUID, 0),
        (f"{UUID}:9999", UUID, 9999),
        ("words-01-upper@mixed~2", "words-01-upper@mixed~2", None),
        ("words-01-upper@mixed~2:3", "words-01-upper@mixed~2", 3),
        ("a:b", "a:b", None),
        ("a:b:3", "a:b", 3),
        ("a:", "a:", None),
        ("a:\u0663", "a:\u0663", None),
        ("", "", None),
    ],
)
def test_an_id_is_read_and_printed_as_it_was(text: str, job: str, index: int | None) -> None:
    native_id = NativeId.parse(text)
    assert (native_id.job, native_id.index) == (job, index)
    assert str(native_id) == text


def test_a_plain_job_is_its_own_only_child() -> None:
    assert str(NativeId.of_child(UUID, 0, is_array=False)) == UUID
    assert str(NativeId.of_child(UUID, 0, is_array=True)) == f"{UUID}:0"
