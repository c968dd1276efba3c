"""What sets a checkout up: which Python is taken, on which ones tests run, what is said without root."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.pythons import interpreters
from scripts.requirements import requirements
from scripts.trim_lock import UNUSED, trimmed

ROOT = Path(__file__).resolve().parent.parent
#: What install.sh itself calls.
CORE = ("bash", "cat", "cut", "dirname", "sha256sum", "env")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A checkout with nothing but install.sh, and a PATH with nothing but what a test puts there."""

    root: Path
    bin: Path

    def put(self, name: str, text: str = "exit 0") -> Path:
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return file

    def python(self, name: str, version: str) -> Path:
        """A Python that knows its version, and makes no environment but says that it was to."""
        major, minor = version.split(".")
        return self.put(
            name,
            f"""case "$*" in
                *"print("*) echo {version} ;;
                *version_info*"'{major}.{minor}'"*) exit 0 ;;
                *version_info*) exit 1 ;;
                *"-m venv"*) echo "venv of {name}" >&2; exit 3 ;;
            esac""",
        )

    def install(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(self.root / "scripts" / "install.sh"), *words],
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(root=tmp_path / "checkout", bin=tmp_path / "bin")
    (host.root / "scripts").mkdir(parents=True)
    host.bin.mkdir()
    shutil.copy(ROOT / "scripts" / "install.sh", host.root / "scripts")
    (host.root / "Pipfile.lock").write_text("{}")
    for name in CORE:
        (host.bin / name).symlink_to(str(shutil.which(name)))
    host.put("id", "echo 1000")
    return host


def test_the_newest_supported_python_that_starts_is_taken(host: Host) -> None:
    host.put("python3.13", "echo 'pyenv: no version was chosen' >&2; exit 127")
    host.python("python3.11", "3.11")
    host.python("python3.12", "3.12")
    host.python("python3.14", "3.14")
    assert "venv of python3.12" in host.install("python")[1]


def test_a_python_without_a_number_is_taken_by_its_version(host: Host) -> None:
    host.python("python3", "3.13")
    host.python("python3.11", "3.11")
    assert "venv of python3\n" in host.install("python")[1]


def test_without_a_python_that_fits_it_says_which_do(host: Host) -> None:
    host.python("python3", "3.9")
    code, told = host.install("python")
    assert code == 1
    assert told.startswith("Python 3.11, 3.12 or 3.13 is needed and none is on the PATH.")
    assert "apt-get install python3 python3-venv" in told
    assert "conda install -c conda-forge python=3.13" in told


def test_without_root_missing_tools_are_named_as_debian_and_conda_call_them(host: Host) -> None:
    host.put("kallisto")
    host.put("apt-get", "echo 'must not be called' >&2; exit 9")
    code, told = host.install("tools")
    assert code == 1
    assert told.splitlines() == [
        "Missing: the tools of the pipelines. As root on Debian: apt-get install --no-install-recommends picard-tools"
        " pizzly samtools bwa bcftools",
        "Without root: conda install -c conda-forge -c bioconda picard pizzly samtools bwa bcftools; what is on the"
        " PATH is used.",
    ]


def test_tools_on_the_path_are_enough_wherever_they_come_from(host: Host) -> None:
    for tool in ("picard", "kallisto", "pizzly", "samtools", "bwa", "bcftools"):
        host.put(tool)
    assert host.install("tools") == (0, "")


def test_what_conda_does_not_have_is_named_as_debians_alone(host: Host) -> None:
    code, told = host.install("browser")
    assert code == 1
    assert told.splitlines()[1:] == ["Known to Debian alone: chromium chromium-driver."]


def test_interpreters_come_from_the_path_and_then_from_pyenv(host: Host, tmp_path: Path) -> None:
    shim = host.put("python3.12", "exit 127")
    first = host.python("python3.11", "3.11")
    pyenv = tmp_path / "pyenv"
    for version in ("3.11.9", "3.12.1", "3.13.0"):
        folder = pyenv / "versions" / version / "bin"
        folder.mkdir(parents=True)
        name = f"python{version.rpartition('.')[0]}"
        shutil.move(Host(root=host.root, bin=host.bin).python(f"new-{name}", version.rpartition(".")[0]), folder / name)
    present = interpreters({"PATH": str(host.bin), "PYENV_ROOT": str(pyenv)})
    assert present == {
        "3.11": first,
        "3.12": pyenv / "versions" / "3.12.1" / "bin" / "python3.12",
        "3.13": pyenv / "versions" / "3.13.0" / "bin" / "python3.13",
    }
    assert shim not in present.values()


def test_requirements_keep_versions_extras_markers_and_checksums() -> None:
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    lines = requirements(lock).splitlines()
    groups = [packages for group, packages in lock.items() if group != "_meta"]
    assert len(lines) == len({name for packages in groups for name in packages} - {"batch-pipeline"})
    for name in {name for packages in groups for name in packages} - {"batch-pipeline"}:
        assert len({packages[name]["version"] for packages in groups if name in packages}) == 1, name
    assert all("==" in line and "--hash=sha256:" in line for line in lines)
    [jwt] = [line for line in lines if line.startswith("pyjwt")]
    assert jwt.startswith("pyjwt[crypto]==")
    # Markers before checksums: pip takes all that follows an option for options.
    assert jwt.index(" ; python_version") < jwt.index(" --hash")
    chosen = requirements(lock, ["cohort"]).splitlines()
    assert [line.partition("==")[0] for line in chosen] == ["numpy", "polars", "polars-runtime-32"]
    with pytest.raises(KeyError, match="cohorts"):
        requirements(lock, ["default", "cohorts"])


def test_the_lock_names_no_index_and_no_package_that_is_never_imported() -> None:
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    assert trimmed(lock) == lock
    pin = {"version": "==1", "hashes": []}
    whole = {"_meta": {"sources": ["x"]}, "default": {"regex": pin}, "multiqc": {"regex": pin, "multiqc": pin}}
    assert trimmed(whole) == {"_meta": {"sources": []}, "default": {"regex": pin}, "multiqc": {"multiqc": pin}}
    assert "kaleido" in UNUSED["multiqc"]
