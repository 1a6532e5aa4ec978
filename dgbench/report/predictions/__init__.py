"""Compute metrics from kept predictions, without training again: as frames, as columns, and as selectors.

`metrics` defines each metric of one model's predictions, `kept` finds and reads what run folders keep, `chosen` applies
both to the choices of a selector, `section` puts the values into tables, and `selector` chooses models by them. torch
is not needed.

Read first: `metrics`.
"""
