"""Reruns whose drivers are killed at random calls, with what is forced, lost, cut off and failing mixed in.

The pipeline has a diamond, a gather, and a step of the samples below the gather. Whatever happened, the next plain
commands make what is left, and every result was made of those that are there. `FAULT_ROUNDS=50` looks deeper: so many
for each of two pipelines, one whose first step leaves the same bytes each time, and one where it does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.lives import LETTERS, SAMPLES, Killer, World

if TYPE_CHECKING:
    from tests.faults.conftest import Engine

pytestmark = [pytest.mark.faults, pytest.mark.slow]

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "8"))
STEPS = ("lower", "words", "size", "both", "share")
CELLS = {*((step, sample) for step in STEPS for sample in SAMPLES), ("count", "_cohort")}
COMMANDS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    ("--force",),
    ("--force", "--samples", "ann"),
    ("--force", "--only-step", "words"),
    ("--force", "--from-step", "count"),
    ("--check-results",),
)
#: Those that leave nothing behind when they succeed.
WHOLE = ((), ("--force",), ("--check-results",))
#: A driver makes about so many calls in a rerun of all.
MOST_CALLS = 110


class Reruns:
    """One world with a story of its own."""

    def __init__(self, world: World, killer: Killer, seed: int, *, same_bytes: bool) -> None:
        self.world = world
        self.killer = killer
        self.chance = random.Random(seed)
        self.same_bytes = same_bytes
        self.told: list[str] = []

    @property
    def flag(self) -> Path:
        return self.world.folder / "flag"

    def receipts(self) -> dict[tuple[str, str], dict[str, Any]]:
        paths = sorted((self.world.store / "receipts").glob("*/*/*.json"))
        found = {(path.parts[-3], path.parts[-2]): json.loads(path.read_text()) for path in paths}
        assert len(found) == len(paths), "two receipts of a cell"
        return found

    def results(self) -> dict[str, str]:
        """Key -> SHA-256 of every result."""
        files = [path for top in ("results", "cohort") for path in (self.world.store / top).rglob("*")]
        return {
            str(path.relative_to(self.world.store)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }

    def disturb(self) -> None:
        for path in sorted((self.world.store / "receipts").glob("*/*/*.json")):
            luck = self.chance.random()
            if luck < 0.06:
                path.unlink()
                self.told.append(f"lost {path.parent}")
            elif luck < 0.09:
                path.write_bytes(b"")
                self.told.append(f"cut off {path.parent}")
        for path in sorted((self.world.store / "results").rglob("*.txt")):
            if self.chance.random() < 0.03:
                path.unlink()
                self.told.append(f"lost {path}")
        if self.chance.random() < 0.4:
            self.flag.touch()
            self.told.append("flag up")

    def round(self) -> None:
        self.disturb()
        words = self.chance.choice(COMMANDS)
        n = self.chance.choice((0, self.chance.randint(4, MOST_CALLS), self.chance.randint(4, MOST_CALLS)))
        life = self.killer.live(self.world, *words, n=n)
        self.told.append(f"{words} killed before {life.calls[-1] if life.code < 0 else 'nothing'}: {life.code}")
        assert life.code in (0, 1, -9), life.said
        if life.code == 0 and words in WHOLE:
            self.check_true(life.said)
        self.flag.unlink(missing_ok=True)
        self.mend()

    def mend(self) -> None:
        """Plain commands until one succeeds: the first may follow jobs of the killed one that fail."""
        for _ in range(3):
            life = self.killer.live(self.world, "--check-results")
            if life.code == 0:
                break
        assert life.code == 0, life.said
        self.check_true(life.said)
        again = self.killer.live(self.world, "--check-results")
        assert "Nothing to do: 16 of 16" in again.said, again.said

    def check_true(self, said: str) -> None:
        receipts, results = self.receipts(), self.results()
        assert set(receipts) == CELLS, said
        made = {file["key"]: file["sha256"] for receipt in receipts.values() for file in receipt["outputs"]}
        for cell, receipt in receipts.items():
            for file in receipt["inputs"]:
                assert file["sha256"] == made.get(file["key"], file["sha256"]), f"{cell} read another {file['key']}"
        missing = {key for key in made if key not in results}
        assert all(results[key] == sha256 for key, sha256 in made.items() if key not in missing)
        self.check_words()

    def check_words(self) -> None:
        """By the files themselves."""
        for sample in SAMPLES:
            lower, words = (
                self.world.store / f"results/{step}/{sample}/{sample}.{step}.txt" for step in ("lower", "words")
            )
            if lower.exists() and words.exists():
                assert words.read_text().split() == sorted(lower.read_text().split())


def pipeline(folder: Path, flag: Path, *, same_bytes: bool) -> Path:
    """The diamond, whose step `words` fails for ann while the flag is up."""
    shutil.copytree(LETTERS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    words, lower = folder / "parts" / "words.py", folder / "parts" / "lower.sh"
    failing = (
        f"if job.sample == 'ann' and __import__('os').path.exists('{flag}'): raise InvalidOutput('The flag is up.')"
    )
    words.write_text(
        words.read_text().replace("        words = sorted(", f"        {failing}\n        words = sorted(")
    )
    if not same_bytes:
        text = lower.read_text().replace("tr '[:upper:]' '[:lower:]' <", "cat /proc/sys/kernel/random/uuid - <")
        lower.write_text(text)
    return folder / "diamond.py"


@pytest.fixture(params=[True, False], ids=["same bytes", "other bytes"])
def reruns(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Reruns]:
    world = engine.world()
    file = pipeline(world.folder / "letters", world.folder / "flag", same_bytes=request.param)
    killer = Killer(file, engine.environment, engine.folder / f"{file.stem}.err")
    yield Reruns(world, killer, seed=int(request.param), same_bytes=request.param)
    killer.close()


def test_after_any_rerun_every_result_is_made_of_those_that_are_there(reruns: Reruns) -> None:
    first = reruns.killer.live(reruns.world)
    assert first.code == 0, first.said
    before: Mapping[str, str] = reruns.results()
    for number in range(ROUNDS):
        try:
            reruns.round()
            if reruns.same_bytes:
                assert reruns.results() == before, "other bytes than an undisturbed run leaves"
        except AssertionError as error:
            story = "\n  ".join(reruns.told)
            raise AssertionError(f"round {number} in {reruns.world.folder}: {error}\n  {story}") from error
