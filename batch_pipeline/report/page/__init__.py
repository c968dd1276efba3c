"""The page of a run or a store: one offline HTML file. One flat room, each module a part of it. Read in this order.

    read      `states` (of cells, by severity), `source` (all that is known of a run), `details` (of single cells)
    reckoned  `failures` (by root cause), `costs` (hours), `packing` (columns for the script)
    shown     `html` (elements), `summary` (head, steps, costs, provenance), `failure_section`, `curves`, `boxes`,
              `distributions`, `runs` (of a store, of a driver), `document` (all of it)

`map.html` and `gantt.html` are filled by the script: `cells.js` unpacks, `choose.js` filters and sorts, `map.js` and
`gantt.js` draw, `page.js` does the rest. `report.css` is the style.
"""
