"""Data sets and the way of their examples to a run: contract, views, splits, minibatches, caches, downloads.

Imports `core`, `store` and `networks`. Read first: `dataset`, then `views`.
"""
