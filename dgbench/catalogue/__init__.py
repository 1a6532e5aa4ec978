"""Map names to entries: the algorithms, averages, mergers, adapters and data sets that exist, and the rows they form.

`Catalogue` finds entries by name and file, `parse_row` reads a row such as `SAM+SWAD`, and `sources.open_dataset` opens
data sets. None of them imports torch until an entry's class is needed.

Imports `methods`, `data` and the packages below them. Read first: `catalogue`, `rows`.
"""
