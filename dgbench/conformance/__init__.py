"""Put twelve questions to any algorithm, in small worlds of data, and five to any data set.

`questions.examine` runs an algorithm through all of them and yields findings; `rehearsal` is the small training loop in
which it is watched, `worlds` makes tiny data of every kind of input. `data.examine` does the same for data sets.
`python -m dgbench.check` prints the findings, and the test suite holds every algorithm of the catalogue to them.

Imports `catalogue` and the packages below it. Read first: `questions`.
"""
