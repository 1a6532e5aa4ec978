"""Data sets, and the way of their examples to a run: contract, parts and views, minibatches, caches, downloads.

An author of a data set extends `dataset.Dataset`. A run cuts its domains into views (`splits`, `views`) and draws
minibatches from them (`sampling`), read from a cache of decoded images where there are any (`cache*`).

May import `core`, `store` and `networks`. Read first: `dataset`, then `views`.
"""
