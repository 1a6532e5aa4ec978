"""From records to tables: reads results, selects models, averages over trials, prints.

Imports `plan` (plans as sweep folders keep them) and the packages below it. Read first: `results`, then `select`.
"""
