"""The embedded AWS Batch: a server on loopback that speaks Batch's API and runs the children as processes.

`client.ensure` starts it and says where it answers; `testing.VirtualBatch` is the same server in the caller's process,
with a virtual clock and scripted outcomes. The parts, in the order of a request: `server` (HTTP) and `signature`,
`border` (log of calls, faults), `model` (validation), `api` and its handlers, `engine` (who runs when), `executor` and
`worker` (the processes), `state` (what survives a crash).
"""

from __future__ import annotations
