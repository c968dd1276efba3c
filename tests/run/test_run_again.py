"""Done means made as asked, just now: any pipeline, selection, way of failing and kill point, with the real driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.plan import CellState, Selection
from batch_pipeline.records.receipts import read_retirements
from batch_pipeline.wire import layout
from batch_pipeline.wire.layout import COHORT
from tests.examples import examples
from tests.run.again import Cell, Chain, Gather, Join, Place, Root, Shape, dumped, played

pytestmark = pytest.mark.faults

MOVING = {CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED}


def some_shape(chance: Random) -> Shape:
    """Chains, joins, gathers, and steps of the samples below a gather."""
    steps: dict[str, tuple[type, tuple[str, ...]]] = {"s0": (Root, ())}
    for i in range(1, chance.randint(2, 4)):
        above = list(steps)
        kind = chance.choice((Chain, Chain, Join, Gather))
        if kind is Gather:
            of_samples = [name for name, (step, _) in steps.items() if step is not Gather]
            steps[f"s{i}"] = (Gather, (chance.choice(of_samples),))
        elif kind is Join:
            steps[f"s{i}"] = (Join, (chance.choice(above), chance.choice(above)))
        else:
            steps[f"s{i}"] = (Chain, (chance.choice(above),))
    # A step of the samples that reads a gather alone still has a cell a sample.
    return Shape(steps)


class Story:
    """One history, from one number: what is asked, what is lost, what fails, where drivers die."""

    def __init__(self, place: Place, chance: Random) -> None:
        self.place = place
        self.chance = chance
        self.told: list[str] = []
        self.cells: list[Cell] = sorted(place.look())

    def some(self, most: int) -> set[Cell]:
        return set(self.chance.sample(self.cells, min(len(self.cells), self.chance.randint(0, most))))

    def disturb(self) -> bool:
        """Loses receipts and results, changes parameters; whether the next command should check results."""
        for step, sample in self.some(1):
            keys = list(self.place.store.keys(layout.receipts(step, sample)))
            self.told.append(f"lost receipts of {step} {sample}")
            self.place.store.delete(keys)
        if self.chance.random() < 0.1:
            self.place.depth += 1
            self.told.append("changed a parameter")
        lost = self.some(1) if self.chance.random() < 0.3 else set()
        for step, sample in lost:
            name = "all.out" if sample == COHORT else f"{sample}.out"
            self.place.store.delete([layout.result(step, sample, name)])
            self.told.append(f"lost the result of {step} {sample}")
        return bool(lost)

    def selection(self) -> Selection:
        chance, place = self.chance, self.place
        return Selection(
            samples=frozenset(chance.sample(place.samples, 1)) if chance.random() < 0.2 else None,
            steps=frozenset(chance.sample(list(place.shape.steps), 1)) if chance.random() < 0.2 else None,
            force=chance.random() < 0.4,
            min_success=chance.choice((1.0, 1.0, 1.0, 0.5)),
        )

    def command(self) -> None:
        """One command, killed or not, with what must hold after it."""
        place = self.place
        check_results = self.disturb()
        selection = self.selection()
        place.play.failing = self.some(2) if self.chance.random() < 0.7 else set()
        place.play.interrupted = self.some(2)
        ends_at = self.chance.randint(1, 120) if self.chance.random() < 0.5 else 0
        self.told.append(f"{selection} {check_results=} failing {place.play.failing} killed {ends_at}")
        request = place.request(selection, check_results=check_results)
        before = place.look(selection, check_results=check_results)
        outcome = place.drive(request, ends_at=ends_at)
        if outcome is None:
            self.told.append(f"died before {place.life.calls[-1]}")
            place.cluster.go_on(self.chance.randint(0, 6))
            place.check_true()
            return
        place.check_true()
        self.check_asked(selection, before, outcome.run_ids, ok=outcome.ok)

    def check_asked(
        self, selection: Selection, before: dict[Cell, CellState], runs: Sequence[str], *, ok: bool
    ) -> None:
        place = self.place
        asked = {cell for cell, state in before.items() if state in MOVING and selection.takes(*cell)}
        for later in (Selection(), replace(selection, force=False)):
            states = place.look(later)
            done = {cell for cell in asked if states[cell] is CellState.DONE}
            for cell in done:
                receipt = place.receipt(cell)
                wrote = receipt["kept"]["run_id"] if receipt["kept"] else receipt["run_id"]
                assert wrote in runs, f"{cell} is done by {wrote}, not by this command"
        if selection.min_success == 1.0 and selection.samples is None:
            states = place.look(replace(selection, force=False))
            assert not ok or all(states[cell] is CellState.DONE for cell in before if selection.takes(*cell))

    def end(self) -> None:
        """The next plain commands make what is left, and nothing is retired any more."""
        self.place.play.failing = set()
        self.told.append("plain")
        for _ in range(2):
            self.place.drive(self.place.request())
        # Results that somebody removed are made when somebody looks.
        outcome = self.place.drive(self.place.request(check_results=True))
        assert outcome is not None
        assert outcome.ok
        assert set(self.place.look().values()) == {CellState.DONE}
        self.place.check_true()
        assert not read_retirements(self.place.store).receipts, dumped(self.place)


@examples(40)
@given(st.integers(0, 2**32))
def test_nothing_is_done_that_was_not_made_as_asked(seed: int) -> None:
    chance = Random(seed)
    shape = some_shape(chance)
    samples = [f"x{i}" for i in range(chance.randint(1, 3))]
    with played(shape, samples, seed, deterministic=chance.random() < 0.5) as place:
        if chance.random() < 0.8:
            assert place.drive(place.request()) is not None
        story = Story(place, chance)
        try:
            for _ in range(chance.randint(1, 4)):
                story.command()
            story.end()
        except AssertionError as error:
            history = "\n  ".join(story.told)
            raise AssertionError(f"seed {seed}: {error}\n  {shape}\n  {history}") from error
