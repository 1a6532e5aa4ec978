"""Turn requests into runs, or into one message with everything that is wrong with them.

Imports `catalogue` and the packages below it. Read first: `planner`, then `asking`.
"""
