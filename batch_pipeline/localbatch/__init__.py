"""The embedded AWS Batch: a server on loopback that speaks Batch's API and runs the children as processes.

`client.ensure` starts it and returns where it answers; `testing.VirtualBatch` is the same server in the caller's
process, with a virtual clock and scripted outcomes. `server` owns the state folder and `service` ties three folders
together, each of which imports only those before it: `engine` (jobs and the state machine), `api` (signatures,
validation, handlers) and `hosts` (workers, containers, journals). `worker` stays where it is: servers and workers may
be of different versions, and its module path is how a server of any version starts one.
"""

from __future__ import annotations
