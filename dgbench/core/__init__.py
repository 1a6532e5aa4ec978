"""Types and functions that every other package shares: runs, protocols, settings, hyperparameter spaces, cards, seeds.

Frozen dataclasses and pure functions. Imports nothing else of dgbench, and torch only inside functions, so that
planning and every `--help` start without it. Read first: `run`, then `protocol` and `setting`.
"""
