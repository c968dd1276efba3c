"""Mistakes with settings of steps, presets and `--set`: one sentence each, with file and line or the option."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.wire.contract import CommandExit
from tests.cli.letters import Run

FILE = "batch_pipeline.toml"


@pytest.mark.parametrize(
    ("text", "args", "sentence"),
    [
        (
            "[steps.uper]\nmemory_mb = 4000\n",
            (),
            f"{FILE}, line 2: there is no step 'uper' in this pipeline; it has: upper, count.",
        ),
        (
            "[steps.upper]\n\nmemory = 4000\n",
            (),
            f"There is no setting 'steps.upper.memory' ({FILE}, line 3). Did you mean steps.upper.memory_mb? A step"
            " has: memory_mb, cpus, timeout_seconds, max_parallel, image.",
        ),
        (
            "[steps]\nmemory_mb = 4000\n",
            (),
            f"There is no setting 'steps.memory_mb' ({FILE}, line 2). Did you mean steps.NAME.memory_mb? A step has:",
        ),
        ("[upper]\ncpus = 2\n", (), f"'upper.cpus' ({FILE}, line 2). Did you mean steps.upper.cpus?"),
        (
            '[steps.upper]\nmemory_mb = "4 GB"\n',
            (),
            f"Setting steps.upper.memory_mb is '4 GB' ({FILE}, line 2); it should be a valid integer",
        ),
        (
            "[steps.upper]\ncpus = 0\n",
            (),
            f"Setting steps.upper.cpus is 0 ({FILE}, line 2); it should be greater than 0.",
        ),
        (
            'preset = "aws"\n',
            (),
            f"{FILE}, line 1: a settings file has presets as tables, [preset.NAME], and chooses none.",
        ),
        (
            '[preset]\nqueue = "spot"\n',
            (),
            f"{FILE}, line 2: preset.queue is a value, but a preset is a table.",
        ),
        (
            '[preset.aws]\nqueue = "spot"\n',
            (),
            f"There is no setting 'queue' ({FILE}, line 2). Did you mean backend.queue?",
        ),
        (
            '[preset.aws.backend]\nqueu = "spot"\n',
            (),
            f"There is no setting 'backend.queu' ({FILE}, line 2). Did you mean backend.queue?",
        ),
        (
            "[preset.aws.steps.uper]\ncpus = 2\n",
            ("--preset", "aws"),
            f"{FILE}, line 2: there is no step 'uper' in this pipeline; it has: upper, count.",
        ),
        (
            "[preset.aws.backend]\n[preset.big.backend]\n",
            ("--preset", "asw"),
            f"There is no preset 'asw' (the command line); {FILE} has: aws, big.",
        ),
        (
            "[params]\nstyle = 3.10\n",
            (),
            f"Setting params.style ({FILE}, line 2): style must be of type str, not 3.1. Write it in quotes.",
        ),
        (
            "[params]\nstyle = 'plain'\n[params.upper]\nstyle = true\n",
            (),
            f"Setting params.upper.style ({FILE}, line 4): style must be of type str, not True. Write it in quotes.",
        ),
        (
            "[params.upper]\ntimes = 12\n",
            (),
            f"Setting params.upper.times ({FILE}, line 2): times must be at most 9, not 12.",
        ),
        ("[params]\ntime = 1\n", (), f"No step has a parameter 'time' ({FILE}, line 2); there are: "),
        ("", ("--preset", "aws"), f"There is no preset 'aws' (the command line); {FILE} has: none."),
        ("", ("--set", "steps.upper.memory_mb"), "--set: 'steps.upper.memory_mb' is not KEY=VALUE"),
        ("", ("--set", "steps.uper.cpus=2"), "the command line: there is no step 'uper' in this pipeline"),
        ("", ("--set", "queue=x"), "There is no setting 'queue' (the command line)."),
        ("", ("--queue", "a", "--set", "backend.queue=b"), "--set: another option sets backend.queue too; give one"),
        ("", ("--upper.time", "2"), "No such option '--upper.time'. (Did you mean"),
        ("", ("--upper.times", "12"), "Invalid value for '--upper.times': 12 is not in the range 1<=x<=9."),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_its_place(
    world: Path, run: Run, text: str, args: tuple[str, ...], sentence: str
) -> None:
    (world / FILE).write_text(text)
    result = run("plan", "--sample-list-file", "list.txt", *args)
    assert result.code == CommandExit.USAGE
    assert sentence in " ".join(result.err.split())
