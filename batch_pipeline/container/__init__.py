"""What runs inside a container, or in a child of the embedded Batch: fetch-and-run, and the life of one cell.

The files in the order in which a cell meets them:

    begin     `__main__`, `entry` (one life), `environment` (which cell, and where), `process_cache` (what the process
              has already), `header` (manifest and row), `log`, `log_excerpt` and `logger` (what is printed), `cell`
              (the order of all)
    stage in  `workspace` (scratch), `stage`, `parallel`, `reference` (the inputs), `listed_ports` (directories and
              globs), `doubt` (an input is not what its receipt says), `keep` (the cell need not run), `fetch` and
              `code` (the bundle)
    run       `execution` (script or class), `loading` (the class), `run` (the process and the signals), `meter`
    end       `publish` (outputs out), `progress` (what the receipt says), `machine` (of where it ran), `verdict` (how
              it ended)
    below     `files` (the store), `disk` and `host_cache` (the host's own)

Two other lives share what they need of these: `payload` (awslabs' fetch-and-run), and `driver` with `checkout` and, for
its scripts, `put`.

One flat room: one path runs through all but these four, in the order above, and a package for each group would cost
every start of a container one more import for no other reader.

Imports the standard library, obstore and `wire` alone; not `logging` (see `logger`). `CellAttempt` is what an attempt
is given, and `Progress`, a value, what it has done.
"""

from __future__ import annotations
