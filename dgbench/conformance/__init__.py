"""Put eleven questions to any algorithm, in small worlds of data.

Imports `catalogue` and the packages below it. Read first: `questions`.
"""
