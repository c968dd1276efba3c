"""Pilots: what claims tasks of a pool and runs them, and how pilots are launched.

    pilot     `pilot_config`, `stop_policy` (when it starts no more), `claim_queue`, `event_loop`, `settlement_queue`
              (heartbeats and ends), `pilot` (the loop over all of these), `notice` (of Spot)
    task      `process`, `tasklog`, `staging`, `hooks`, `verdict`, `task_runner` (one task, with all of these)
    launch    `launch` (here), `jobs` (on AWS Batch), `autopilot` (how many)

One flat room: two lives, a pilot's and a task's, are told by one file each, and the others are the parts of them that
are tested alone.
"""
