"""Keep a sweep's folder: the state of each run, the lease of the process that executes it, files written whole.

Imports `core`. Read first: `folder`, then `run_folder` and `lease`.
"""
