"""dgbench: a domain-generalization benchmark.

Every number is one *predictor*, measured on one *view*, under one *protocol*, chosen by one *selector*.
Importing this package does nothing: no torch, no seeds, no logging.
"""

__version__ = "0.1.0"
