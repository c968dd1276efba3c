"""What the pipeline costs, measured against bounds and peers in one run: `python -m benchmarks`.

`cells` runs many tiny cells through every engine, `fusion` the real job beside a hand-written loop, `candidates` has
pizzly's step beside pizzly on a large sample, `planning` makes plans of many samples, `memory` replays a cohort whose
memory is heavy-tailed, `startup` times what happens before anything does, `report` writes and opens the page of a run.
`measure` takes the figures, `bound` is the least that an engine which can be trusted must do.
"""

from __future__ import annotations
