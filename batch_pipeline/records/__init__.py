"""A run as data, in the store: what was asked, sent and made, as values, and how they are kept.

    asked     `request` (of a driver), `preparation` (what a run needs before), `origin` and `code_state` (who, which
              code), `people`, `place`
    kept      `record` (of the run), `record_writing`, `history` (what came after it), `manifests` and `submissions` (of
              its jobs), `receipts` (of its cells, and which count), `removals` (of temporary files)
    read      `listing` (what chosen cells have in a store), `registry` (all runs of a store), `whole_store` (all
              receipts of a store), `results` (which receipt vouches for what), `attempts` (that failed),
              `usage` (what cells took and need), `attempt_row`, `compare`, `spent`, `cell_table` (how each cell of a
              run ended)
    heard     `events` (`Listener`), `event_log`, `driver_log`
    besides   `toml` (settings that go along with a driver)

One flat room: each file is one kind of object in the store, or one question that is answered from them; no group is
used without the others.
"""
