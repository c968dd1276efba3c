"""From what a scientist writes to what will be sent: steps, wiring, samples, fingerprints, plan. Values only.

    written   `step`, `values` (parameters and columns), `cell_facts` (resources by evidence), `command` (one for bash),
              `wiring` and `workflow` (the DAG), `parameters` (of a task), `samples`, `columns` (of the sheet),
              `resources` (from the settings)
    digested  `code` (a step's files, by `analysis/`), `images`, `fingerprint`, `former` (of earlier versions), `lint`,
              `review`, `output_review`, `command_review` and `foreign_words` (what would fail in every container)
    planned   `conditions` and `choices` (which cells there are, and what each reads), `rows` and `sheet_rows` (of
              parts and groups), `plan` (values), `decisions`, `live_cells`, `cell_inputs`, `gather_input`, `crossing`
              and `cells` (a state for each cell), `conflicts`, `retiring`, `temporary`
              (outputs that go after use), `resource_groups` (few numbers for what cells ask for), `waves` (what is
              sent together), `planner` (`make_plan`)

One flat room, read from top to bottom: each line needs the whole of the one above.
"""
