"""The version of dgbench, as runs record it and tables print it."""

__version__ = "0.1.0"
