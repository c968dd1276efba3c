"""Scratch of processes: one user's, one process's, locked while that lives, swept afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batch_pipeline.wire import scratch
from batch_pipeline.wire.errors import UnsafeFolder
from batch_pipeline.wire.scratch import (
    Scratch,
    left_by_earlier_versions,
    own_folder,
    private_folder,
    scratch_root,
    sweep,
)

HOLD = """
import sys
from batch_pipeline.wire.scratch import Scratch
print(Scratch(sys.argv[1]).path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a temporary folder is like."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_scratch_that_a_process_holds_is_not_swept_and_goes_with_it(root: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        path = Path(process.stdout.readline().strip())
        (path / "work").mkdir()
        (path / "work" / "reads.bam").write_text("x")
        (path / "work").chmod(0o500)
        ours = Scratch(str(root))
        assert sweep(str(root)) == []
        process.kill()
        process.wait()
        assert sweep(str(root)) == [str(path)]
        assert not path.exists()
        assert ours.is_intact()
        ours.close()
    assert os.listdir(own_folder(str(root))) == []


def test_the_cache_and_what_another_machine_left_are_not_swept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path(own_folder(str(root)))
    (own / "cache" / "code").mkdir(parents=True)
    left = Scratch(str(root))
    left.forget()
    here = scratch._machine()
    monkeypatch.setattr(scratch, "_machine", lambda: ("00000000", "11111111"))
    assert sweep(str(root)) == []
    # An earlier boot of this host, or another container on it.
    for other in ((here[0], "11111111"), ("00000000", here[1])):
        monkeypatch.setattr(scratch, "_machine", lambda other=other: other)
        assert sweep(str(root)) == [left.path]
        os.mkdir(left.path)
    assert (own / "cache" / "code").is_dir()


def test_scratch_that_was_removed_or_exchanged_is_not_intact(root: Path) -> None:
    held = Scratch(str(root))
    os.rename(held.path, f"{held.path}-away")
    assert not held.is_intact()
    os.mkdir(held.path)
    assert not held.is_intact()
    held.forget()


def test_a_process_that_lasts_makes_another_when_its_scratch_was_removed(root: Path) -> None:
    from batch_pipeline.container.process_cache import ProcessCache, shut_down

    things: dict[str, object] = {"lasts": True}
    warm = ProcessCache(things, {})
    first = warm.scratch(str(root))
    assert warm.scratch(str(root)) == first
    os.rmdir(first)
    second = warm.scratch(str(root))
    assert second != first
    warm.release(str(root))
    assert os.path.isdir(second)
    shut_down(things)
    assert os.listdir(own_folder(str(root))) == []


def test_folders_that_others_may_write_to_are_refused_with_rule_and_remedy(root: Path) -> None:
    own = Path(own_folder(str(root)))
    own.chmod(0o770)
    with pytest.raises(UnsafeFolder) as refused:
        Scratch(str(root))
    assert str(refused.value) == (
        f"{own} may be written by others (mode 0770); it must be a folder of {scratch._name(os.geteuid())} that no "
        "other user may write to, because what lies there is trusted. Set BATCH_PIPELINE_SCRATCH or TMPDIR to another "
        f"folder, or look at what others put there and run: chmod go-w {own}"
    )
    own.rmdir()
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    own.symlink_to(elsewhere)
    with pytest.raises(UnsafeFolder, match=r"is a link; .* or remove it"):
        Scratch(str(root))
    with pytest.raises(UnsafeFolder, match="is a link"):
        sweep(str(root))
    own.unlink()
    own.write_text("")
    with pytest.raises(UnsafeFolder, match="is no folder"):
        own_folder(str(root))


def test_a_place_where_anybody_may_exchange_folders_is_refused_but_on_a_machine_of_one_account(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.chmod(0o777)
    with pytest.raises(UnsafeFolder, match=rf"has no sticky bit.*chmod \+t {root}"):
        own_folder(str(root))
    monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/x")
    assert own_folder(str(root)) == f"{root}/batch_pipeline-{os.geteuid()}"


def test_folders_above_a_private_one_are_not_open_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_folder(tmp_path / "a" / "b" / "c", "Name another")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]


def test_what_earlier_versions_left_is_named_not_removed(root: Path) -> None:
    job = "01234567-89ab-cdef-0123-456789abcdef"
    names = [".references", ".spare-123", f"{job}_1", f"{job}-7_2", f"driver-{job}_1"]
    for name in (*names, "reads", f"{job}", "spare-1"):
        (root / name).mkdir()
    assert left_by_earlier_versions(str(root)) == sorted(str(root / name) for name in names)
    assert left_by_earlier_versions(str(root / "absent")) == []
    assert sweep(str(root)) == []


def test_the_place_for_scratch_is_the_told_one_or_the_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "DEFAULT_ROOT", "/no/such/folder")
    assert scratch_root({"BATCH_PIPELINE_SCRATCH": "/a", "TMPDIR": "/b"}) == "/a"
    assert scratch_root({"TMPDIR": "/b"}) == "/b"
    assert scratch_root({}) == "/tmp"
