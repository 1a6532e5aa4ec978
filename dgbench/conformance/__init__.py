"""Put questions to any algorithm, merger, adapter or data set, in small worlds of data.

`examine` puts questions to an entry and yields findings; `questions`, `merger_questions` and `adapter_questions` hold
them, and `kinds` says which kind of entry has which. `rehearsal` is the small training loop in which an algorithm is
watched, `finished` has its models, `worlds` makes tiny data of every kind of input. `data.examine` does the same for
data sets. `python -m dgbench.check` prints the findings, and the test suite holds the catalogue to them.

Imports `catalogue` and the packages below it. Read first: `examine`, then `questions`.
"""
