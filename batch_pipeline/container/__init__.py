"""What runs inside a container, or in a child of the embedded Batch: fetch-and-run, and the life of one cell.

The parts, in the order of the flow: `entry` (one life), `environment` (where am I), `log` (what the tools print),
`fetch` (the bundle), `payload` (awslabs' fetch-and-run), `cell` (the order of a cell), `stage` (inputs and references
in), `loading` (the step's class), `run` (its process and the signals), `publish` (outputs and the receipt out), `files`
(the store, with the shortcuts that a folder allows). Imports the standard library, obstore and `wire` alone.
"""

from __future__ import annotations
