"""The words of the suite: runs, protocols, settings, hyperparameter spaces, cards, seeds.

Frozen dataclasses and pure functions. Imports nothing else of dgbench, and torch only inside functions.
Read first: `run`, then `protocol` and `setting`.
"""
