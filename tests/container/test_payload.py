"""awslabs' fetch-and-run and what was mended in it."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch_pipeline.container.code import unpack
from batch_pipeline.wire.errors import ContractBroken

if TYPE_CHECKING:
    from tests.container.conftest import Workshop

SCRIPT = '#!/bin/sh\necho "args: $*"\nfor a in "$@"; do echo "<$a>"; done\necho "in: $PWD"\nexit ${CODE:-0}\n'


def job(workshop: Workshop, kind: str, name: str, data: bytes) -> dict[str, str]:
    workshop.store.put(name, data)
    return {
        "PATH": os.environ["PATH"],
        "BATCH_FILE_TYPE": kind,
        "BATCH_FILE_S3_URL": f"{workshop.store.url}/{name}",
        "BATCH_PIPELINE_SCRATCH": str(workshop.scratch),
    }


def zipped(workshop: Workshop) -> bytes:
    from tests.container.conftest import make_zip

    return make_zip({"bin/tool.sh": SCRIPT, "data.txt": "data", "plain": "#!/bin/sh\n"})


def test_a_scripts_first_argument_is_only_a_name(workshop: Workshop) -> None:
    environment = job(workshop, "script", "code/my job.sh", SCRIPT.encode())
    environment["BATCH_FILE_S3_URL"] = environment["BATCH_FILE_S3_URL"].replace(" ", "%20")
    assert workshop.live(environment, "name", "a", "b c") == 0, workshop.log
    assert workshop.log.decode().splitlines() == ["args: a b c", "<a>", "<b c>", f"in: {os.getcwd()}"]
    assert workshop.live(environment) == 0
    assert workshop.log.decode().splitlines()[0] == "args: "
    assert workshop.left_in_scratch() == []


def test_a_zips_first_argument_is_the_member_to_run_inside(workshop: Workshop) -> None:
    environment = job(workshop, "zip", "x.zip", zipped(workshop))
    assert workshop.live(environment, "bin/tool.sh", "a") == 0, workshop.log
    args, first, where = workshop.log.decode().splitlines()
    assert (args, first) == ("args: a", "<a>")
    assert Path(where.removeprefix("in: ")).is_relative_to(workshop.scratch)
    assert workshop.left_in_scratch() == []


def test_the_payloads_exit_code_is_ours(workshop: Workshop) -> None:
    environment = job(workshop, "script", "x.sh", SCRIPT.encode())
    for code in (1, 2, 7, 143):
        assert workshop.live({**environment, "CODE": str(code)}, "name") == code
    workshop.store.put("x.sh", b"#!/bin/sh\nkill -9 $$\n")
    assert workshop.live(environment, "name") == 137
    assert workshop.left_in_scratch() == []


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [
        ({"BATCH_FILE_TYPE": ""}, ["x"]),
        ({"BATCH_FILE_TYPE": "tar"}, ["x"]),
        ({"BATCH_FILE_S3_URL": ""}, ["x"]),
        ({"BATCH_FILE_S3_URL": "https://example.org/x"}, ["x"]),
        ({}, []),
    ],
)
def test_wrong_use_tells_the_usage_and_ends_with_2(
    workshop: Workshop, changes: dict[str, str], arguments: list[str]
) -> None:
    environment = job(workshop, "zip", "x.zip", zipped(workshop))
    assert workshop.live({**environment, **changes}, *arguments) == 2
    assert b"usage: BATCH_FILE_TYPE=script" in workshop.log


def test_the_checksum_decides_when_it_is_given(workshop: Workshop) -> None:
    environment = job(workshop, "script", "x.sh", SCRIPT.encode())
    right = hashlib.sha256(SCRIPT.encode()).hexdigest()
    assert workshop.live({**environment, "BATCH_FILE_SHA256": right.upper()}, "name") == 0
    assert workshop.live({**environment, "BATCH_FILE_SHA256": "0" * 64}, "name") == 64
    assert b"does not have the promised SHA-256" in workshop.log
    assert b"args:" not in workshop.log


def test_failing_to_fetch_has_codes_of_its_own(workshop: Workshop) -> None:
    environment = job(workshop, "zip", "x.zip", zipped(workshop))
    assert workshop.live(environment, "nosuch") == 64
    assert workshop.live(environment, "../../../bin/true") == 64
    assert workshop.live(environment, "/bin/true") == 64
    assert workshop.live(environment, "plain") == 64
    assert b"executable bit" in workshop.log
    workshop.store.put("x.zip", zipped(workshop)[:-30])
    assert workshop.live(environment, "plain") == 64
    assert b"no sound zip archive" in workshop.log
    workshop.store.delete(["x.zip"])
    assert workshop.live(environment, "plain") == 66
    assert workshop.left_in_scratch() == []


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "a/.."])
def test_no_member_leaves_the_folder(workshop: Workshop, name: str) -> None:
    from tests.container.conftest import make_zip

    environment = job(workshop, "zip", "x.zip", make_zip({name: "evil", "run.sh": SCRIPT}))
    assert workshop.live(environment, "run.sh") == 64
    assert b"would leave its folder" in workshop.log
    assert not list(workshop.root.rglob("evil"))


def test_links_and_members_of_one_name_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", "2")
    linked = tmp_path / "linked.zip"
    with zipfile.ZipFile(linked, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    for number, path in enumerate((twice, linked)):
        with pytest.raises(ContractBroken):
            unpack(path.read_bytes(), tmp_path / str(number))


def test_executable_bits_are_kept(tmp_path: Path, workshop: Workshop) -> None:
    unpack(zipped(workshop), tmp_path / "out")
    assert (tmp_path / "out/bin/tool.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/data.txt").stat().st_mode & 0o777 == 0o644
