"""Execute one run in one process: claim it, train, merge or adapt, evaluate its views, write its records.

`job.run_job` is the entry point of every worker process; `context.open_context` opens a run and its data by itself.
Imports `catalogue` and the packages below it, neither `plan` nor `launchers`.

Read first: `job`, then `training` and `evaluate`.
"""
