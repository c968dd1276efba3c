"""What belongs to the code of each step of the fusion pipeline, and so makes it run again when it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline import Step
from batch_pipeline.pipeline.code import code_of
from steps.cohort import Cohort
from steps.cram import Cram
from steps.kallisto import Kallisto
from steps.multiqc import MultiQC
from steps.picard import Picard
from steps.pizzly import Pizzly
from steps.reference import BuildReference

ROOT = Path(__file__).resolve().parents[2]
STEPS: tuple[type[Step], ...] = (BuildReference, Cram, Picard, Kallisto, Pizzly, Cohort, MultiQC)


@pytest.mark.parametrize("step", STEPS)
def test_no_step_has_the_code_of_another_one(step: type[Step]) -> None:
    """A reference that depended on kallisto's step would be built again for a new option of that."""
    modules = {Path(f"{one.__module__.replace('.', '/')}.py") for one in STEPS if one is not step}
    assert modules.isdisjoint(code_of(step, ROOT))
