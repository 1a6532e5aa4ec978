"""Turns requests into runs, or into a message with everything that is wrong with them.

Imports `catalogue` and the packages below it. Read first: `planner`, then `asking`.
"""
