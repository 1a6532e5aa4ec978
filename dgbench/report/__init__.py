"""Turn records into tables: read a sweep's results, select models, average over trials, format the tables.

`folders.open_results` reads a folder, `tables.build` makes the tables, `render.FORMATS` writes them, and
`frames.load_results` gives all of it as frames of pandas. Imports `plan` (for the plan that a sweep folder holds) and
the packages below it; needs no torch.

Read first: `results`, then `select`.
"""
