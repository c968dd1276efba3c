"""Bundles of one process never meet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch_pipeline.container.loading import load_step
from batch_pipeline.wire.errors import ContractBroken

if TYPE_CHECKING:
    from tests.container.conftest import Workshop

STEP = """
from batch_pipeline import Output, Step
from steps.shared import WORD
import helper
class S(Step):
    y = Output("y")
    def run(self, job):
        from steps import late
        import helper as again
        job.output("y").write_text(" ".join([WORD, helper.WORD, late.WORD, str(again is helper)]))
"""


def members(word: str) -> dict[str, str]:
    line = f"WORD = {word!r}\n"
    return {"steps/s.py": STEP, "steps/shared.py": line, "steps/late.py": line, "helper.py": line}


def test_each_bundle_has_its_own_modules_early_and_late(workshop: Workshop) -> None:
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("steps", "helper")}
    path = list(sys.path)
    for word in ("one", "two", "one"):
        environment = workshop.python("", bundle_sha256=workshop.bundle(members(word)))
        assert workshop.live(environment) == 0, workshop.log
        assert workshop.result() == f"{word} {word} {word} True".encode()
    assert path == sys.path
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("steps", "helper")}
    assert before == after


def test_a_module_loaded_before_is_hidden_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = type(sys)("helper")
    stranger.WORD = "stranger"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "helper", stranger)
    (tmp_path / "helper.py").write_text("WORD = 'ours'\n")
    (tmp_path / "s.py").write_text("import helper\nclass S:\n    word = helper.WORD\n")
    assert load_step(tmp_path, "s:S").step_class.word == "ours"
    assert sys.modules["helper"] is stranger
    assert "s" not in sys.modules


def test_a_failed_import_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "s.py").write_text("import helper\n1/0\n")
    path = list(sys.path)
    with pytest.raises(ContractBroken, match="ZeroDivisionError"):
        load_step(tmp_path, "s:S")
    assert not {"s", "helper"} & set(sys.modules)
    assert path == sys.path


def test_a_bundle_cannot_replace_this_package(tmp_path: Path) -> None:
    (tmp_path / "batch_pipeline.py").write_text("raise RuntimeError\n")
    (tmp_path / "s.py").write_text("import batch_pipeline\nclass S:\n    file = batch_pipeline.__file__\n")
    assert load_step(tmp_path, "s:S").step_class.file == sys.modules["batch_pipeline"].__file__
    assert "batch_pipeline" in sys.modules


def test_whether_a_class_checks_is_known(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("""
from batch_pipeline import Step
class Plain(Step): pass
class Checks(Step):
    def check(self, job): pass
class Derived(Checks): pass
""")
    assert [load_step(tmp_path, f"s:{name}").checks for name in ("Plain", "Checks", "Derived")] == [False, True, True]
