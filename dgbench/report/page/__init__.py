"""Make the report: one HTML file that shows a sweep, opens from disk and needs nothing beside it.

`build.build_page` makes the page of what `frames.load_results` has read: `content` prepares the overview and the
tables, `report.figures` draws, `svg` turns drawings into parts of the page, `runs` lists each run. `page.html`,
`page.css` and `page.js` are its template. Importing these modules imports neither matplotlib nor jinja2.

Read first: `build`, then `content`.
"""
