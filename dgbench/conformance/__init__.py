"""Put eleven questions to any algorithm, in small worlds of data.

`questions.examine` runs an algorithm through all of them and yields findings; `rehearsal` is the small training loop in
which it is watched, `worlds` makes tiny data of every kind of input. `python -m dgbench.check` prints the findings, and
the test suite holds every entry of the catalogue to them.

Imports `catalogue` and the packages below it. Read first: `questions`.
"""
