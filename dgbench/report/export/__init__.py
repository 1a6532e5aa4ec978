"""Write a sweep's finished runs in the format of another tool, each format in a file of its own.

`formats.FORMATS` lists them. A format is a function that takes a sweep's folder and a new one, and yields lines for the
user. `tracked` prepares runs for tools that track experiments: one run there for each predictor that tables may show.
Their libraries are imported only when a format is used.

Read first: `formats`, then `tracked`.
"""
