"""The store as a cell uses it: the folder's shortcuts mean the same as obstore's requests."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.container import disk
from batch_pipeline.container.files import FolderFiles, ObjectFiles
from batch_pipeline.wire.errors import DiskFull, InvalidOutput, StoreFailed
from batch_pipeline.wire.scratch import remove_tree
from batch_pipeline.wire.store import NotInStore, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), create=True)


@pytest.fixture(params=["shortcuts", "obstore"])
def files(request: pytest.FixtureRequest, store: Store) -> FolderFiles | ObjectFiles:
    assert store.folder
    return FolderFiles(store, store.folder) if request.param == "shortcuts" else ObjectFiles(store, (0.0, 0.0))


def test_both_read_and_write_the_same(files: FolderFiles | ObjectFiles, store: Store) -> None:
    files.write("a/b c/x.txt", b"0123456789")
    assert store.get("a/b c/x.txt") == b"0123456789"
    assert files.read("a/b c/x.txt") == b"0123456789"
    assert files.read_range("a/b c/x.txt", 3, 4) == b"3456"
    files.write("a/b c/x.txt", b"new")
    assert store.get("a/b c/x.txt") == b"new"


def test_both_say_when_something_is_absent(files: FolderFiles | ObjectFiles, tmp_path: Path) -> None:
    with pytest.raises(NotInStore):
        files.read("a/x")
    with pytest.raises(NotInStore):
        files.bring("a/x", tmp_path / "x", lambda: None)
    assert files.versions_in("a/") == {}
    with pytest.raises(NotInStore):
        files.digest("a/x")
    files.delete(["a/x"])


def test_both_list_whole_files_directly_under_a_prefix(files: FolderFiles | ObjectFiles, store: Store) -> None:
    files.write("r/s/1.json", b"")
    files.write("r/s/2.json", b"")
    assert store.folder
    (store.folder / "r/s/3.json#123").write_text("a part that a killed process left")
    assert files.versions_in("r/s/") == {entry.key: store.version(entry) for entry in store.list("r/s/")}
    assert sorted(files.versions_in("r/s/")) == ["r/s/1.json", "r/s/2.json"]
    files.delete(["r/s/1.json", "r/s/absent"])
    assert list(files.versions_in("r/s/")) == ["r/s/2.json"]


def test_both_digest_an_object(files: FolderFiles | ObjectFiles) -> None:
    for data in (b"", b"data", b"x" * 100_000):
        files.write("a/x", data)
        assert files.digest("a/x") == (len(data), hashlib.sha256(data).hexdigest())


def test_etags_are_those_of_obstore(files: FolderFiles | ObjectFiles, store: Store, tmp_path: Path) -> None:
    for size in (0, 1, 70000):
        store.put("x", b"x" * size)
        brought = files.bring("x", tmp_path / f"x{size}", lambda: None)
        assert (brought.etag, brought.size_bytes) == (store.head("x").etag, size)


def test_both_publish_whole_and_leave_no_part(files: FolderFiles | ObjectFiles, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"data")
    files.publish(path, "results/a/b/out", move=True)
    assert store.get("results/a/b/out") == b"data"
    assert [entry.key for entry in store.list("")] == ["results/a/b/out"]


def test_a_file_with_two_names_is_copied_not_moved(store: Store, tmp_path: Path) -> None:
    assert store.folder
    path = tmp_path / "out"
    path.write_bytes(b"data")
    FolderFiles(store, store.folder).publish(path, "k", move=False)
    path.write_bytes(b"changed")
    assert store.get("k") == b"data"


def test_across_file_systems_a_file_is_copied(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        monkeypatch.setattr(disk, "renamed", lambda *_: False)
        path = tmp_path / "out"
    else:
        path = shm / f"batch-pipeline-{uuid.uuid4().hex}"
    path.write_bytes(b"data" * 1000)
    path.chmod(0o750)
    try:
        assert store.folder
        FolderFiles(store, store.folder).publish(path, "a/k", move=True)
    finally:
        path.unlink(missing_ok=True)
    assert store.get("a/k") == b"data" * 1000
    assert (store.folder / "a/k").stat().st_mode & 0o777 == 0o750
    assert os.listdir(store.folder / "a") == ["k"]


def test_a_link_tells_when_its_target_changed(store: Store, tmp_path: Path) -> None:
    assert store.folder
    store.put("x", b"data")
    link = FolderFiles(store, store.folder).bring("x", tmp_path / "x", lambda: None).link
    assert link
    link.verify()
    (tmp_path / "x").write_bytes(b"DATA!")
    with pytest.raises(InvalidOutput, match=r"changed its input .*/x"):
        link.verify()
    os.unlink(store.folder / "x")
    with pytest.raises(InvalidOutput):
        link.verify()


def test_a_folder_in_a_files_place_is_not_there(store: Store, tmp_path: Path) -> None:
    assert store.folder
    files = FolderFiles(store, store.folder)
    (store.folder / "d").mkdir()
    with pytest.raises(NotInStore):
        files.bring("d", tmp_path / "d", lambda: None)
    with pytest.raises(NotInStore):
        files.read("d")


def test_a_full_disk_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.folder

    def writes_to_full(_: int, data: Any) -> int:
        # The kernel's own device for this: every write to it finds no space.
        with open("/dev/full", "wb", buffering=0) as device:
            return device.write(data) or 0

    monkeypatch.setattr(os, "write", writes_to_full)
    with pytest.raises(DiskFull, match="No space is left for"):
        FolderFiles(store, store.folder).write("a/x", b"data")
    assert os.listdir(store.folder / "a") == []


class Flaky(Store):
    """A store that fails a number of times before each kind of request works."""

    def __init__(self, store: Store, failures: int, transient: bool = True) -> None:
        super().__init__(store.url, store.backend, None)
        self.left = dict.fromkeys(("get", "get_range", "put", "put_file", "delete", "stream", "list"), failures)
        self.transient = transient

    def fail(self, kind: str) -> None:
        if self.left[kind]:
            self.left[kind] -= 1
            error = StoreFailed(f"{kind} failed")
            error.transient = self.transient
            raise error

    def get(self, key: str) -> bytes:
        self.fail("get")
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.fail("get_range")
        return super().get_range(key, start, length)

    def put(self, key: str, data: bytes) -> None:
        self.fail("put")
        super().put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self.fail("put_file")
        super().put_file(key, path)

    def delete(self, keys: list[str]) -> None:
        self.fail("delete")
        super().delete(keys)

    def list(self, prefix: str) -> Any:
        self.fail("list")
        return super().list(prefix)

    def stream(self, key: str, span: tuple[int, int] | None = None) -> Any:
        self.fail("stream")
        return super().stream(key, span)


def use_all(files: ObjectFiles, folder: Path) -> None:
    files.write("a/x", b"data")
    assert files.read("a/x") == b"data"
    assert files.read_range("a/x", 1, 2) == b"at"
    assert list(files.versions_in("a/")) == ["a/x"]
    assert files.digest("a/x")[0] == 4
    files.bring("a/x", folder / "x", lambda: None)
    files.publish(folder / "x", "a/y", move=True)
    files.delete(["a/x"])
    assert list(files.versions_in("a/")) == ["a/y"]


def test_two_failures_of_each_request_are_overcome(tmp_path: Path) -> None:
    flaky = Flaky(open_store(f"memory://{uuid.uuid4().hex}"), 2)
    use_all(ObjectFiles(flaky, (0.0, 0.0)), tmp_path)
    assert set(flaky.left.values()) == {0}


def test_a_third_failure_is_told(tmp_path: Path) -> None:
    flaky = Flaky(open_store(f"memory://{uuid.uuid4().hex}"), 3)
    with pytest.raises(StoreFailed, match="put failed"):
        use_all(ObjectFiles(flaky, (0.0, 0.0)), tmp_path)
    assert flaky.left["put"] == 0


def test_a_lasting_failure_is_told_at_once(tmp_path: Path) -> None:
    flaky = Flaky(open_store(f"memory://{uuid.uuid4().hex}"), 3, transient=False)
    with pytest.raises(StoreFailed):
        use_all(ObjectFiles(flaky, (0.0, 0.0)), tmp_path)
    assert flaky.left["put"] == 2


def test_remove_tree_removes_whatever_a_tool_left(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_text("x")
    (folder / "out").symlink_to(tmp_path)
    (tmp_path / "kept").write_text("x")
    os.chmod(folder / "a", 0o500)
    remove_tree(folder)
    assert os.listdir(tmp_path) == ["kept"]
    remove_tree(folder)


@pytest.mark.parametrize("move", [True, False])
def test_what_a_tool_kept_to_itself_is_published_with_the_rights_that_the_umask_leaves(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: bool
) -> None:
    assert store.folder
    files = FolderFiles(store, store.folder)
    monkeypatch.setattr(disk, "_umask", lambda: 0o027)
    for mode, published in ((0o600, 0o640), (0o400, 0o440), (0o700, 0o750), (0o604, 0o604)):
        path = tmp_path / "out"
        path.write_text("data")
        path.chmod(mode)
        files.publish(path, "results/a/b/out", move=move)
        assert (store.folder / "results/a/b/out").stat().st_mode & 0o777 == published
        path.unlink(missing_ok=True)


def test_a_folder_in_the_place_of_an_output_is_called_one(store: Store, tmp_path: Path) -> None:
    assert store.folder
    files = FolderFiles(store, store.folder)
    (store.folder / "results/a/y").mkdir(parents=True)
    (tmp_path / "y").write_text("y")
    with pytest.raises(StoreFailed, match=r"is a folder, where a file has to be\. Remove it"):
        files.publish(tmp_path / "y", "results/a/y", move=True)
