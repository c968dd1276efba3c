"""How Hypothesis looks for examples, for all tests: the same ones every time, however slow the machine is.

A failure is then the change's, and nobody else's. `HYPOTHESIS_EXAMPLES=5000` looks deeper: so many examples of each
test instead of its own number, and others each time; what fails is printed with the line that repeats it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

_MORE = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))


def use_the_same_examples_every_time() -> None:
    """Loads the profile. Nothing in it depends on time: no deadline, and no complaint that examples are made slowly."""
    settings.register_profile(
        "batch_pipeline",
        max_examples=_MORE or 100,
        derandomize=not _MORE,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("batch_pipeline")
    # Hypothesis also draws constants that it reads in our modules, as far as they are imported: what other tests have
    # run before in this process would decide. There is no setting for that.
    providers._get_local_constants = lambda: providers._local_constants


def examples(number: int) -> settings:
    """So many examples of a test that should not have the profile's number of them."""
    return settings(max_examples=_MORE or number)
