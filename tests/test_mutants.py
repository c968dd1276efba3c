"""Mutants are single changes that Python can read, tests kill them, and the working tree stays as it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts import mutants
from scripts.mutants import TESTS, count_survivors, mutants_of, spread

pytestmark = pytest.mark.repository


@pytest.mark.parametrize("module", TESTS)
def test_mutants_of_the_deciding_modules_differ_from_them_and_can_be_read(module: str, root: Path) -> None:
    source = (root / "batch_pipeline" / module).read_bytes()
    assert all((root / "tests" / f"{name}.py").is_file() for name in TESTS[module])
    made = spread(mutants_of(source), 40)
    trees = {ast.dump(ast.parse(mutant.apply(source))) for mutant in made}
    assert ast.dump(ast.parse(source)) not in trees
    assert len(trees) == len(made)


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("x = a > b", ["a > b → (a >= b)", "a > b → (a <= b)"]),
        ("x = a in b", ["a in b → (a not in b)"]),
        ("x = 'ä', a and b", ["a and b → (a or b)"]),
        ("x = not a", ["not a → a"]),
        ("x = any(a)", ["any(a) → all(a)"]),
        ("x = 3", ["3 → 4", "3 → 2"]),
        ("x = True", ["True → False"]),
        ("x = a - b", ["a - b → (a + b)"]),
        ("x += a", ["x += a → x -= a"]),
        ("x.y = a", ["x.y = a → pass"]),
        ("x(a)", ["x(a) → pass"]),
        ("raise x", ["raise x → pass"]),
        ("def x(): return a", ["return a → return None"]),
        ("def x(): yield a", ["yield a → pass"]),
        ("if a: b = c", ["a → (not a)"]),
        ("x = [a for a in b if a]", ["a → (not a)"]),
        ("x = replace(a, b=c)", ["b=c → **{}"]),
        ("x: Literal[1] = f'{a + b}'", []),
    ],
)
def test_what_is_changed_and_into_what(line: str, changes: list[str]) -> None:
    assert [str(mutant) for mutant in mutants_of(line.encode())] == changes


def test_a_sample_is_spread_evenly_and_always_the_same() -> None:
    made = mutants_of(b"x = 1, 2, 3, 4, 5")
    assert [mutant.was for mutant in spread(made, 5)] == ["1", "2", "3", "4", "5"]
    assert spread(made, 0) == spread(made, 100) == made


@pytest.mark.slow
def test_a_mutant_that_no_test_notices_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One is killed by a failing test, one by its time limit, and one survives."""
    source = "def count(n: int) -> int:\n    while n < 3:\n        n += 1\n    return n or 3\n"
    module = tmp_path / "batch_pipeline" / "small.py"
    module.parent.mkdir()
    module.write_text(source)
    (module.parent / "__init__.py").touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    engine\n    servers\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_small.py").write_text(
        "from batch_pipeline.small import count\ndef test_count(): assert count(0) == 3\n"
    )
    monkeypatch.setattr(mutants, "TESTS", {"small.py": ("test_small",)})
    monkeypatch.setattr(mutants, "LIMIT_SECONDS", 0.0)
    wanted = {"n < 3 → (n <= 3)", "n += 1 → n -= 1", "n or 3 → (n and 3)"}
    made = [mutant for mutant in mutants_of(source.encode()) if str(mutant) in wanted]
    assert count_survivors(tmp_path, "small.py", made) == 1
    assert "batch_pipeline/small.py:4: n or 3 → (n and 3)\n" in capfd.readouterr().out
    assert module.read_text() == source
