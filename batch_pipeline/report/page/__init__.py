"""The page of a run: one offline HTML file. One flat room: each module is a part of the page. Read in this order.

    read      `states` (of cells, by severity), `source` (all that is known of a run), `details` (of single cells)
    reckoned  `failures` (by root cause), `costs` (hours), `packing` (columns for the script)
    shown     `html` (elements), `summary` (head, steps, costs, provenance), `failure_section`, `curves`, `boxes`,
              `distributions`, `document` (all of it)

`map.html` and `gantt.html` are filled by the script: `cells.js` unpacks, `choose.js` filters and sorts, `map.js` and
`gantt.js` draw, `page.js` does the rest. `report.css` is the style.
"""
