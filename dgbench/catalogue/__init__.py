"""Names to entries: the algorithms, averages, mergers, adapters and data sets that exist, and the rows they form.

Imports `methods`, `data` and the packages below them; finds entries by name and file. Read first: `catalogue`, `rows`.
"""
