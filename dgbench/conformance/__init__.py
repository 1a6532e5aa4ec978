"""Eleven questions that every algorithm must answer, and the small world in which they are asked.

Imports `catalogue` and the packages below it. Read first: `questions`.
"""
