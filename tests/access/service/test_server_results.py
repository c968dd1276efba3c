"""Viewing results: streamed, in ranges, by permission, and nothing outside of the area whatever the path."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from batch_pipeline.access.service.files import list_folder, open_file, parts_of
from batch_pipeline.access.service.results import SANDBOX, type_of
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import NotInStore, open_store
from tests.access.service.lab import BOB, Lab

DATA = bytes(range(256)) * 20_000  # several pieces


def same(found: bytes, expected: bytes) -> bool:
    """What differs in megabytes would take minutes to be shown."""
    return found == expected


def test_a_file_is_streamed_whole(lab: Lab) -> None:
    lab.result("cohort-7/table.tsv", DATA)
    answer = lab.client().get("/fusions/test/cohort-7/table.tsv")
    assert answer.status_code == 200
    assert same(answer.content, DATA)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "private, no-cache"


RANGES: dict[str, tuple[int, bytes, str]] = {
    "bytes=0-9": (206, DATA[:10], f"bytes 0-9/{len(DATA)}"),
    "bytes=5000000-5000009": (206, DATA[5_000_000:5_000_010], f"bytes 5000000-5000009/{len(DATA)}"),
    f"bytes={len(DATA) - 5}-": (206, DATA[-5:], f"bytes {len(DATA) - 5}-{len(DATA) - 1}/{len(DATA)}"),
    "bytes=-7": (206, DATA[-7:], f"bytes {len(DATA) - 7}-{len(DATA) - 1}/{len(DATA)}"),
    f"bytes=10-{len(DATA) * 2}": (206, DATA[10:], f"bytes 10-{len(DATA) - 1}/{len(DATA)}"),
    f"bytes={len(DATA)}-": (416, b"", f"bytes */{len(DATA)}"),
    "bytes=-0": (416, b"", f"bytes */{len(DATA)}"),
    "bytes=9-0": (200, DATA, ""),
    "bytes=0-0,5-6": (200, DATA, ""),
    "bytes=-": (200, DATA, ""),
    "lines=1-2": (200, DATA, ""),
    "bytes=0-" + "9" * 40: (200, DATA, ""),
}


@pytest.mark.parametrize("asked", RANGES)
@pytest.mark.parametrize("place", ["folder", "objects"])
def test_a_range_is_answered(asked: str, place: str, lab: Lab) -> None:
    status, data, told = RANGES[asked]
    if place == "folder":
        lab.result("big.bin", DATA)
    else:
        policy = lab.root / "policies" / "fusions.toml"
        url = f"memory://{lab.root.name}-{os.getpid()}"
        policy.write_text(policy.read_text().replace(f"{lab.root}/fusions-test", url))
        open_store(url).put("analysis/big.bin", DATA)
    answer = lab.client().get("/fusions/test/big.bin", headers={"Range": asked})
    assert (answer.status_code, answer.headers.get("content-range", "")) == (status, told)
    assert same(answer.content, data)


def test_what_has_not_changed_is_not_sent_again(lab: Lab) -> None:
    file = lab.result("a.txt", b"one")
    client = lab.client()
    tag = client.get("/fusions/test/a.txt").headers["etag"]
    again = client.get("/fusions/test/a.txt", headers={"If-None-Match": f'"x", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    part = client.get("/fusions/test/a.txt", headers={"Range": "bytes=0-0", "If-Range": tag})
    assert part.status_code == 206
    os.utime(file, ns=(1, 1))
    assert client.get("/fusions/test/a.txt", headers={"If-None-Match": tag}).status_code == 200
    whole = client.get("/fusions/test/a.txt", headers={"Range": "bytes=0-0", "If-Range": tag})
    assert (whole.status_code, whole.content) == (200, b"one")


def test_a_head_tells_the_size_and_sends_nothing(lab: Lab) -> None:
    lab.result("a.txt", b"one")
    answer = lab.client().request("HEAD", "/fusions/test/a.txt")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "3", b"")


def test_an_empty_file_is_a_file(lab: Lab) -> None:
    lab.result("a.txt", b"")
    assert lab.client().get("/fusions/test/a.txt").content == b""
    assert lab.client().get("/fusions/test/a.txt", headers={"Range": "bytes=0-"}).status_code == 416


def test_no_file_stays_open(lab: Lab) -> None:
    lab.result("a.txt", DATA)
    client = lab.client()
    before = len(os.listdir("/proc/self/fd"))
    for headers in ({}, {"Range": "bytes=0-1"}, {"Range": "bytes=99999999-"}, {"If-None-Match": "*"}):
        for method in ("GET", "HEAD"):
            client.request(method, "/fusions/test/a.txt", headers=headers)
    client.get("/fusions/test/nothing/at/all.txt")
    client.get("/fusions/test/")
    assert len(os.listdir("/proc/self/fd")) == before


# What a browser may do with it.


@pytest.mark.parametrize("name", ["report.html", "report.HTM", "figure.svg"])
def test_what_may_hold_a_script_is_shown_in_a_sandbox(name: str, lab: Lab) -> None:
    lab.result(name, b"<script>fetch('/runs')</script>")
    policy = lab.client().get(f"/fusions/test/{name}").headers["content-security-policy"]
    assert policy == SANDBOX
    assert "allow-same-origin" not in policy
    assert "connect-src 'none'" in policy


TYPES = {
    "a.png": "image/png",
    "a.txt": "text/plain; charset=utf-8",
    "a.json": "application/json",
    "a.xhtml": "application/octet-stream",
    "a.xml": "application/octet-stream",
    "a.js": "application/octet-stream",
    "a.html.gz": "application/octet-stream",
    "a.bam": "application/octet-stream",
    "html": "application/octet-stream",
}


@pytest.mark.parametrize("name", TYPES)
def test_types_are_told_and_never_guessed(name: str, lab: Lab) -> None:
    assert type_of(name) == TYPES[name]
    lab.result(name, b"<html><script>alert(1)</script>")
    answer = lab.client().get(f"/fusions/test/{name}")
    assert answer.headers["content-type"] == TYPES[name]
    assert answer.headers["x-content-type-options"] == "nosniff"
    shown = answer.headers["content-disposition"].startswith("inline")
    assert shown == (TYPES[name] != "application/octet-stream")


def test_a_name_cannot_write_headers(lab: Lab) -> None:
    lab.result('a";filename=x.exe', b"a")
    answer = lab.client().get("/fusions/test/a%22%3Bfilename%3Dx.exe")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a%22%3Bfilename%3Dx.exe"


# Folders.


def test_a_folder_is_listed_and_links_lead_on(lab: Lab) -> None:
    lab.result("cohort-7/table.tsv", b"x" * 2048)
    lab.result("cohort-7/a b:c?.txt", b"odd")
    client = lab.client()
    told = client.get("/fusions/test/").json()
    assert told == {"path": "", "folders": ["cohort-7"], "files": [], "cut": False}
    page = client.page("/fusions/test/cohort-7/").text
    assert 'href="./table.tsv"' in page
    assert "2.0 KiB" in page
    assert 'href="./a%20b%3Ac%3F.txt"' in page
    assert client.get("/fusions/test/cohort-7/a%20b%3Ac%3F.txt").content == b"odd"


def test_a_folder_without_its_slash_leads_to_the_one_with_it(lab: Lab) -> None:
    lab.result("cohort-7/table.tsv", b"x")
    answer = lab.client().get("/fusions/test/cohort-7")
    assert (answer.status_code, answer.headers["location"]) == (308, "cohort-7/")


def test_a_dataset_shows_its_levels(lab: Lab) -> None:
    page = lab.client().page("/fusions/").text
    assert 'href="./test/"' in page
    assert 'href="./standard/"' in page
    assert lab.client().get("/methylation/").status_code == 404


def test_an_area_where_nothing_was_written_is_empty(lab: Lab) -> None:
    assert lab.client().get("/fusions/standard/").json()["files"] == []
    assert lab.client().get("/fusions/test/").status_code == 404


# Attempts to read what one may not.


def test_another_dataset_is_refused_like_one_that_there_is_not(lab: Lab) -> None:
    lab.result("secret.txt", b"secret", "methylation-test")
    theirs = lab.client().get("/methylation/test/secret.txt")
    none = lab.client().get("/nothing/test/secret.txt")
    assert theirs.status_code == none.status_code == 403
    assert theirs.json()["error"].replace("methylation", "nothing") == none.json()["error"]
    assert lab.client(lab.issuer.token(email=BOB)).get("/methylation/test/secret.txt").content == b"secret"


def test_a_level_that_the_policy_leaves_out_is_refused(lab: Lab) -> None:
    assert lab.client().get("/fusions/full/a.txt").status_code == 403


TRICKS = [
    "/fusions/test/../../methylation-test/analysis/secret.txt",
    "/fusions/test/%2e%2e/%2e%2e/methylation-test/analysis/secret.txt",
    "/fusions/test/%2E%2E/secret.txt",
    "/fusions/test/..%2f..%2fmethylation-test/analysis/secret.txt",
    "/fusions/test/..%5c..%5cmethylation-test/analysis/secret.txt",
    "/fusions/test/..\\secret.txt",
    "/fusions/test/%252e%252e/secret.txt",
    "/fusions/test/.%00./secret.txt",
    "/fusions/test/secret.txt%00.html",
    "/fusions/test//etc/passwd",
    "/fusions/test/%2fetc/passwd",
    "/fusions/test/./secret.txt",
    "/fusions/test/cohort-7/../secret.txt",
    "/fusions/test/cohort-7/%C0%AE%C0%AE/secret.txt",
    "/fusions/test/%EF%BC%8E%EF%BC%8E/secret.txt",
    "/fusions/test/~root/.bashrc",
    "/fusions/test/file:%2f%2f/etc/passwd",
    "/fusions/../methylation/test/secret.txt",
    "/fusions%2f..%2fmethylation/test/secret.txt",
    "/FUSIONS/test/secret.txt",
    "/fusions/TEST/secret.txt",
    "/_/../methylation/test/secret.txt",
    "/_/%2e%2e/app.py",
    "/_/style.css/../../app.py",
    "/fusions/test/secret.txt/",
    "/fusions/test/" + "a/" * 2000,
    "/fusions/test/" + "a" * 300,
    "/fusions/test/loop/secret.txt",
    "/fusions/test/link/secret.txt",
    "/fusions/test/link.txt",
    "/fusions/test/link/",
    "/fusions/test/pipe.txt",
    "/fusions/test/socket.txt",
]


@pytest.mark.parametrize("path", TRICKS, ids=lambda path: path[:60])
def test_no_path_leads_out_of_the_area(path: str, lab: Lab) -> None:
    secret = lab.result("secret.txt", b"the secret", "methylation-test")
    (lab.root / "fusions-test" / "secret.txt").write_text("the secret above the area")
    inside = lab.result("cohort-7/a.txt", b"a").parent.parent
    (inside / "link").symlink_to(secret.parent)
    (inside / "link.txt").symlink_to(secret)
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        old = os.getcwd()
        os.chdir(inside)  # a socket's path may not be long
        try:
            listener.bind("socket.txt")
        finally:
            os.chdir(old)
        status, body = lab.client().get_raw(path)
    assert status in (400, 403, 404, 422)
    assert b"secret above" not in body
    assert b"the secret" not in body


def test_a_link_is_not_listed(lab: Lab) -> None:
    inside = lab.result("a.txt", b"a").parent
    (inside / "link").symlink_to("/etc")
    (inside / "link.txt").symlink_to("/etc/passwd")
    assert lab.client().get("/fusions/test/").json()["files"] == [{"name": "a.txt", "size_bytes": 1}]
    assert lab.client().get("/fusions/test/").json()["folders"] == []


def test_a_link_in_the_middle_of_the_area_itself_is_not_followed(lab: Lab) -> None:
    (lab.root / "fusions-test" / "analysis").symlink_to(lab.root / "methylation-test")
    (lab.root / "methylation-test" / "secret.txt").write_text("the secret")
    assert lab.client().get("/fusions/test/secret.txt").status_code == 404


@pytest.mark.parametrize("path", ["..", "a/../b", "a//b", "/a", "a\\b", "a\0b", "a\nb", ".", "a/.", "x" * 1025])
def test_a_path_is_names_alone(path: str) -> None:
    with pytest.raises(InvalidUse):
        parts_of(path)


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    store = open_store(str(tmp_path))
    with pytest.raises(NotInStore):
        open_file(store, ("folder",))
    with pytest.raises(NotInStore):
        list_folder(store, ("file",))
