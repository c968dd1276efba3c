"""Lines of settings files: where keys are, and changes that leave all other lines as they are."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from batch_pipeline.settings_file import change_numbers, line_of, with_numbers
from batch_pipeline.wire.errors import InvalidConfig

TEXT = """# first
[backend]
queue = "x"

[steps.call]
cpus = 2
[params]
bootstraps = 3
"kallisto.seed" = 4
[preset."a b".steps.call]  # chosen
memory_mb = 5
[steps]
count = {memory_mb = 6}
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("backend.queue", 3),
        ("steps.call.cpus", 6),
        ("params.kallisto.seed", 9),
        ("preset.a b.steps.call.memory_mb", 11),
        ("steps.count.memory_mb", 13),
        ("steps.call", 5),
        ("store.url", None),
    ],
)
def test_a_key_has_its_line(key: str, line: int | None) -> None:
    assert line_of(TEXT, key) == line


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[steps.call]\nmemory_mb = 9\n"),
        ("a = 1 # keep", "a = 1 # keep\n\n[steps.call]\nmemory_mb = 9\n"),
        ("[steps.call]\nmemory_mb=1\n", "[steps.call]\nmemory_mb=9\n"),
        ("[steps.call]\nmemory_mb = 1_000   # why\ncpus = 1\n", "[steps.call]\nmemory_mb = 9   # why\ncpus = 1\n"),
        ("[steps.call] # c\n\n# end\n[tags]\n", "[steps.call] # c\nmemory_mb = 9\n\n# end\n[tags]\n"),
        ("[steps.call]\ncpus = 1\n\n[tags]\n", "[steps.call]\ncpus = 1\nmemory_mb = 9\n\n[tags]\n"),
        ("[ steps . call ]\n  'memory_mb' = 1", "[ steps . call ]\n  'memory_mb' = 9"),
        ("[steps]\ncall.memory_mb = 1\n", "[steps]\ncall.memory_mb = 9\n"),
        ("steps.call.memory_mb = 1\n", "steps.call.memory_mb = 9\n"),
        ("[steps.call]\r\ncpus = 1\r\n", "[steps.call]\r\ncpus = 1\r\nmemory_mb = 9\r\n"),
        ("[steps.other]\nmemory_mb = 1\n", "[steps.other]\nmemory_mb = 1\n\n[steps.call]\nmemory_mb = 9\n"),
    ],
)
def test_a_number_is_written_and_every_other_line_kept(before: str, after: str) -> None:
    changed = with_numbers(before, {"steps.call.memory_mb": 9})
    assert changed == after
    assert tomllib.loads(changed)["steps"]["call"]["memory_mb"] == 9


@pytest.mark.parametrize(
    "text",
    [
        "[steps]\ncall = {memory_mb = 1}\n",
        "steps = {call = {cpus = 1}}\n",
        '[tags]\nx = """\n[steps.call]\nmemory_mb = 1\n"""\n',
        "[steps.call]\nmemory_mb = [\n1]\n",
    ],
)
def test_a_form_that_cannot_be_changed_safely_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match=r"Set: steps\.call\.memory_mb = 9\."):
        with_numbers(text, {"steps.call.memory_mb": 9})


def test_a_file_is_replaced_at_once_with_its_mode_and_through_its_link(tmp_path: Path) -> None:
    file, link = tmp_path / "real.toml", tmp_path / "link.toml"
    file.write_bytes(b"# caf\xc3\xa9\r\n")
    file.chmod(0o640)
    link.symlink_to(file)
    change_numbers(link, {"steps.call.cpus": 2, "steps.call.memory_mb": 9})
    assert file.read_bytes() == b"# caf\xc3\xa9\r\n\r\n[steps.call]\r\ncpus = 2\r\nmemory_mb = 9\r\n"
    assert (link.is_symlink(), file.stat().st_mode & 0o777) == (True, 0o640)
    assert sorted(os.listdir(tmp_path)) == ["link.toml", "real.toml"]


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    change_numbers(tmp_path / "new.toml", {"steps.call.cpus": 2})
    assert (tmp_path / "new.toml").read_text() == "[steps.call]\ncpus = 2\n"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot be changed: No such file or directory\. Check --config\."):
        change_numbers(tmp_path / "none" / "new.toml", {"steps.call.cpus": 2})
