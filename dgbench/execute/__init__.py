"""Executes one run in one process: claims it, trains, merges or adapts, evaluates, writes records.

Imports `catalogue` and the packages below it, not `plan` nor `launchers`. Read first: `job`, then `training`.
"""
