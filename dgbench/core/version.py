"""Hold the version of dgbench, which runs record and tables print."""

__version__ = "0.2.0"
