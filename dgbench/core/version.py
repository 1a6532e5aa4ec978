"""Hold the version of dgbench, which runs record and tables print."""

__version__ = "0.1.0"
