"""Which files are a step's code, and what of them its digests are made of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from batch_pipeline.pipeline.code import code_digests, code_of, entry_of, script_of
from batch_pipeline.pipeline.step import Step
from batch_pipeline.wire.errors import InvalidPipeline

STEP = "from batch_pipeline import Step\n"
Make = Callable[[Mapping[str, str], str], type[Step]]


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    root = tmp_path / "pipeline"
    root.mkdir()
    return root


@pytest.fixture(name="make")
def _make(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Writes files below the root and imports `module:Class` from there; nothing of it stays imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(root))

    def make(files: Mapping[str, str], entry: str) -> type[Step]:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        importlib.invalidate_caches()
        module, _, name = entry.partition(":")
        found: type[Step] = getattr(importlib.import_module(module), name)
        return found

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(step: type[Step], root: Path) -> list[str]:
    return [str(file) for file in code_of(step, root)]


def test_a_step_alone_is_its_module(make: Make, root: Path) -> None:
    step = make({"alone.py": f"import os, json\n{STEP}class A(Step): pass\n", "other.py": ""}, "alone:A")
    assert names(step, root) == ["alone.py"]
    assert entry_of(step, root) == "alone:A"
    assert script_of(step, root) == ""


def test_what_it_imports_counts_however_deep_and_in_every_way_to_write_it(make: Make, root: Path) -> None:
    files = {
        "tools_t/__init__.py": "",
        "tools_t/step.py": (
            f"{STEP}from . import near\nfrom .beside import thing\nimport far_t.away\nclass A(Step): pass\n"
        ),
        "tools_t/near.py": "def late():\n    from tools_t.hidden import x\n",
        "tools_t/beside.py": "thing = 1\n",
        "tools_t/hidden.py": "x = 1\n",
        "tools_t/unrelated.py": "",
        "far_t/__init__.py": "from far_t.first import one\n",
        "far_t/first.py": "one = 1\n",
        "far_t/away.py": "import top_t\n",
        "top_t.py": "import far_t.away\n",
    }
    step = make(files, "tools_t.step:A")
    assert names(step, root) == [
        "far_t/__init__.py",
        "far_t/away.py",
        "far_t/first.py",
        "tools_t/__init__.py",
        "tools_t/beside.py",
        "tools_t/hidden.py",
        "tools_t/near.py",
        "tools_t/step.py",
        "top_t.py",
    ]
    assert entry_of(step, root) == "tools_t.step:A"


def test_relative_imports_go_up_by_their_dots(make: Make, root: Path) -> None:
    files = {
        "up_t/__init__.py": "",
        "up_t/shared.py": "value = 1\n",
        "up_t/deep/__init__.py": "",
        "up_t/deep/step.py": f"{STEP}from ..shared import value\nfrom .. import more\nclass A(Step): pass\n",
        "up_t/more.py": "",
        "shared.py": "",
    }
    assert names(make(files, "up_t.deep.step:A"), root) == [
        "up_t/__init__.py",
        "up_t/deep/__init__.py",
        "up_t/deep/step.py",
        "up_t/more.py",
        "up_t/shared.py",
    ]


def test_the_packages_above_a_step_are_run_before_it_and_count(make: Make, root: Path) -> None:
    files = {
        "above_t/__init__.py": "import setting_t\n",
        "setting_t.py": "",
        "above_t/step.py": f"{STEP}class A(Step): pass\n",
    }
    assert names(make(files, "above_t.step:A"), root) == ["above_t/__init__.py", "above_t/step.py", "setting_t.py"]


def test_a_folder_without_init_is_a_package_too(make: Make, root: Path) -> None:
    files = {"plain_t/step.py": f"{STEP}from plain_t import tool\nclass A(Step): pass\n", "plain_t/tool.py": ""}
    assert names(make(files, "plain_t.step:A"), root) == ["plain_t/step.py", "plain_t/tool.py"]


def test_a_package_goes_before_a_module_of_its_name_as_in_python(make: Make, root: Path) -> None:
    files = {
        "both_t.py": "",
        "both_t/__init__.py": "",
        "asks_t.py": f"{STEP}import both_t\nclass A(Step): pass\n",
    }
    assert names(make(files, "asks_t:A"), root) == ["asks_t.py", "both_t/__init__.py"]


def test_a_script_and_further_files_count(make: Make, root: Path) -> None:
    files = {
        "work_t/step.py": f"{STEP}class A(Step):\n    script = 'run.sh'\n    files = ('lib/a.awk', '../shared.txt')\n",
        "work_t/run.sh": "#!/bin/sh\n",
        "work_t/lib/a.awk": "",
        "shared.txt": "",
        "work_t/other.sh": "",
    }
    step = make(files, "work_t.step:A")
    assert names(step, root) == ["shared.txt", "work_t/lib/a.awk", "work_t/run.sh", "work_t/step.py"]
    assert script_of(step, root) == "work_t/run.sh"


def test_a_script_and_data_count_by_their_bytes_and_modules_by_what_is_used_of_them(make: Make, root: Path) -> None:
    files = {
        "bytes_t.py": f"{STEP}import helper_t\nclass A(Step):\n    script = 'run_t.sh'\n    files = ('table_t.tsv',)\n",
        "helper_t.py": "X = 1\n",
        "run_t.sh": "",
        "table_t.tsv": "",
        "unrelated_t.py": "",
    }
    step = make(files, "bytes_t:A")
    first = code_digests(step, root)
    (root / "unrelated_t.py").write_text("x = 1\n")
    (root / "notes.md").write_text("text")
    (root / "helper_t.py").touch()
    assert code_digests(step, root) == first
    former = {first.files}
    for name, counts in (("bytes_t.py", False), ("helper_t.py", False), ("run_t.sh", True), ("table_t.tsv", True)):
        before = code_digests(step, root)
        (root / name).write_text((root / name).read_text() + "# more\n")
        after = code_digests(step, root)
        differing = [each for each in after.names if after.names[each] != before.names.get(each)]
        assert differing == ([name] if counts else [])
        former.add(after.files)
    assert len(former) == 5


def test_a_python_script_and_a_file_that_is_no_python_count_by_their_bytes(make: Make, root: Path) -> None:
    files = {
        "odd_t.py": f"{STEP}class A(Step):\n    script = 'tool_t.py'\n    files = ('two_t.py',)\n",
        "tool_t.py": "#!/usr/bin/env python3\n",
        "two_t.py": "print 'Python 2'\n",
    }
    step = make(files, "odd_t:A")
    for name in ("tool_t.py", "two_t.py"):
        before = code_digests(step, root).names
        (root / name).write_text((root / name).read_text() + "# more\n")
        after = code_digests(step, root).names
        assert [each for each in after if after[each] != before[each]] == [name]


@pytest.mark.parametrize("command", ["python tool_t.py", "python -m tool_t", "true"])
def test_a_module_that_a_script_runs_counts_whole(make: Make, root: Path, command: str) -> None:
    files = {
        "runs_t.py": f"{STEP}import tool_t\nclass A(Step):\n    script = 'run_t.sh'\n    x = tool_t.used\n",
        "run_t.sh": f"#!/bin/sh\n{command}\n",
        "tool_t.py": "used = 1\nidle = 1\n",
    }
    step = make(files, "runs_t:A")
    before = code_digests(step, root).names
    (root / "tool_t.py").write_text("used = 1\nidle = 2\n")
    assert (code_digests(step, root).names != before) is (command != "true")


def test_resources_of_a_step_s_own_bases_count_as_little_as_its_own(make: Make, root: Path) -> None:
    files = {
        "base_t.py": f"{STEP}class Big(Step):\n    memory_mb = 9\nclass Mixin:\n    cpus = 9\n",
        "heir_t.py": "from base_t import Big, Mixin\nclass A(Mixin, Big):\n    timeout_seconds = 9\n",
    }
    step = make(files, "heir_t:A")
    before = code_digests(step, root).names
    for name, attribute, counts in (
        ("base_t.py", "memory_mb", False),
        ("heir_t.py", "timeout_seconds", False),
        ("base_t.py", "cpus", True),
    ):
        (root / name).write_text((root / name).read_text().replace(f"{attribute} = 9", f"{attribute} = 8"))
        assert (code_digests(step, root).names != before) is counts


def test_a_step_that_its_module_does_not_name_counts_with_all_of_it(make: Make, root: Path) -> None:
    text = f"{STEP}def made():\n    class A(Step): pass\n    return A\nMAKERS = [made]\ndef idle(): return 1\n"
    make({"made_t.py": text}, "made_t:made")
    step = sys.modules["made_t"].made()
    step.__qualname__ = "A"
    before = code_digests(step, root).names
    (root / "made_t.py").write_text(text.replace("return 1", "return 2"))
    assert code_digests(step, root).names != before


def test_where_the_folder_lies_is_no_part_of_the_digests(make: Make, root: Path, tmp_path: Path) -> None:
    source = f"{STEP}class A(Step): pass\n"
    here = code_digests(make({"moved_t.py": source}, "moved_t:A"), root)
    del sys.modules["moved_t"]
    (root / "moved_t.py").unlink()
    sub = root / "sub"
    assert code_digests(make({"sub/moved_t.py": source}, "sub.moved_t:A"), sub) == here


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("script = 'gone.sh'", "A names the file 'gone.sh', which is not beside"),
        ("files = ('folder_t',)", "A names the file 'folder_t', which is not beside"),
        ("files = ('../outside.txt',)", r"A names the file '../outside.txt', which lies outside"),
    ],
)
def test_a_file_that_cannot_be_bundled_is_refused(make: Make, root: Path, body: str, sentence: str) -> None:
    (root / "folder_t").mkdir()
    (root.parent / "outside.txt").write_text("")
    step = make({"refused_t.py": f"{STEP}class A(Step):\n    {body}\n"}, "refused_t:A")
    with pytest.raises(InvalidPipeline, match=sentence):
        code_of(step, root)


def test_a_step_outside_of_the_pipeline_s_folder_is_refused(make: Make, root: Path) -> None:
    step = make({"outside_t.py": f"{STEP}class A(Step): pass\n"}, "outside_t:A")
    inner = root / "inner"
    inner.mkdir()
    with pytest.raises(InvalidPipeline, match=r"outside of the pipeline's folder .* Move or copy the file there"):
        code_of(step, inner)


def test_an_import_that_is_no_python_is_told_by_line(make: Make, root: Path) -> None:
    step = make({"lazy_t.py": f"{STEP}class A(Step):\n    def run(self, job):\n        import broken_t\n"}, "lazy_t:A")
    (root / "broken_t.py").write_text("x = 1\ndef (:\n")
    with pytest.raises(InvalidPipeline, match=r"broken_t\.py, line 2: "):
        code_of(step, root)
