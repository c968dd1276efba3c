from __future__ import annotations

from pathlib import Path

from batch_pipeline.container.disk import put_by


def test_emptied_folders_of_inputs_are_put_by(tmp_path: Path) -> None:
    scratch, spare = tmp_path / "scratch", tmp_path / "spare"
    (scratch / "in-x").mkdir(parents=True)
    (scratch / "in-x" / "link").symlink_to("/etc/hostname")
    (scratch / "file").write_text("left over")

    assert put_by(str(scratch), str(spare))

    assert not scratch.exists()
    assert [*spare.rglob("*")] == [spare / "in-x"]


def test_a_folder_that_a_tool_made_deeper_or_closed_is_not_put_by(tmp_path: Path) -> None:
    deeper, closed = tmp_path / "deeper", tmp_path / "closed"
    (deeper / "in-x" / "made-by-a-tool").mkdir(parents=True)
    (closed / "in-x").mkdir(parents=True)
    (closed / "in-x").chmod(0o500)

    assert not put_by(str(deeper), str(tmp_path / "spare"))
    assert not put_by(str(closed), str(tmp_path / "spare"))
    assert not (tmp_path / "spare").exists()
