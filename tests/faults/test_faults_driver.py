"""A driver is killed at every point between two calls to the store or to Batch; the same command finishes the run."""

from __future__ import annotations

import random
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.faults.lives import Killer, Life, Numbers

if TYPE_CHECKING:
    from tests.faults.conftest import Engine

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KILLED = -signal.SIGKILL


def test_a_driver_killed_before_any_call_is_taken_over_by_the_same_command(engine: Engine) -> None:
    """The jobs that it left go on meanwhile, and some have ended when the next driver looks."""
    numbers = Numbers()
    last: list[Life] = []

    def kill_and_go_on(killer: Killer) -> None:
        for n in numbers:
            world = engine.world()
            first = killer.live(world, n=n)
            if first.code != KILLED:
                assert first.code == 0, first.said
                numbers.end()
                last.append(first)
                continue
            second = killer.live(world)
            point = f"killed before call {n}, {first.calls[-1]}, of {world.folder}"
            assert second.code == 0, f"{point}: {second.said}"
            try:
                world.check_whole()
            except AssertionError as error:
                raise AssertionError(f"{point}: {error}") from error

    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(kill_and_go_on, killer) for killer in engine.killers]:
            ended.result()
    assert {"submit_job", "describe_jobs"} <= set(last[0].calls)
    assert len(last[0].calls) > 25


def test_a_driver_killed_while_its_jobs_still_run_is_taken_over_without_a_second_submission(engine: Engine) -> None:
    """No cell of the first step ends before all is submitted: what is left of the first driver is alive."""
    numbers = Numbers()

    def kill_and_adopt(killer: Killer) -> None:
        for n in numbers:
            world = engine.world(closed=True)
            first = killer.live(world, "--detach", n=n)
            if first.code != KILLED:
                numbers.end()
            point = f"killed before call {n}, {first.calls[-1]}, of {world.folder}"
            second = killer.live(world, "--detach")
            world.gate.touch()
            third = killer.live(world)
            assert (second.code, third.code) == (0, 0), f"{point}: {second.said} {third.said}"
            try:
                world.check_whole()
            except AssertionError as error:
                raise AssertionError(f"{point}: {error}") from error

    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(kill_and_adopt, killer) for killer in engine.killers]:
            ended.result()


@pytest.mark.parametrize("seed", range(6))
def test_drivers_killed_one_after_the_other_lose_and_repeat_nothing(engine: Engine, seed: int) -> None:
    """The one that takes over may die as well."""
    chosen = random.Random(seed)
    world = engine.world(closed=bool(seed % 2))
    deaths = [chosen.randint(3, 36) for _ in range(4)]
    for n in deaths:
        engine.killers[0].live(world, "--detach", n=n)
    world.gate.touch()

    last = engine.killers[0].live(world)

    assert last.code == 0, f"{deaths}: {last.said}"
    world.check_whole()
