"""Base classes for authors of methods: algorithms, averages, mergers and adapters, and tools that several share.

Imports `core`, `networks` and `data`. Read first: `algorithm`.
"""
