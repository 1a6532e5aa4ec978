"""Turn records into tables: read a sweep's results, select models, average over trials, format the tables.

`results.read_results` and `domainbed.read_sweep` read a folder, `tables.build` makes the tables, `render.FORMATS`
writes them. Imports `plan` (for the plan that a sweep folder holds) and the packages below it; needs no torch.

Read first: `results`, then `select`.
"""
