"""Acts on a plan: records, submits, watches, and tells what came of it.

The files in the order in which a run meets them:

    where     `place` (the backend, as the run record says), `backend` (pilots or array jobs), `lock` (one driver)
    look      `inventory` (the store), `live` (jobs on their way), `recovery` and `retry_policy` (what goes again),
              `cell_needs` (what each asks for), `snapshot` (all of it, and the plan)
    check     `preflight`, `cost_bound`, `local_capacity` (of this machine), `owners` and `beyond` (of steps in the
              store)
    send      `bundle`, `folders`, `context` (what jobs share), `reference`, `widths`, `submit`, `orders`
    as a job  `driver_jobs` (submitted, observed, ended), `driver_bundle` and `driver_order` (`run --driver batch`),
              `resume` (an attempt goes on where the last one was killed)
    follow    `watch`, `diagnosis` (why jobs wait), `queue_place` (and where), `interrupts`, `verdict`, `closing` (a
              run's end), `temporary` (outputs that go then), and `driver`: the loop over all above
    besides   `estimate`, `sizing` (of one sample's cells), `status`, `recorded` (both without the pipeline's file),
              `cancel`, `logs`, `search`, `attempt_rows`

One flat room: `driver` and `snapshot` use nearly all of the others, and so do the commands of the last line. Folders
would divide what looks from what acts, and both stand on the same snapshot, live jobs and verdicts.
"""
