"""Draw the figures of a sweep, for the report, for files and for notebooks: one implementation, one style.

A figure is a `panels.Drawing`: panels that each draw on axes of matplotlib, a title, and a caption that says how to
read it. `gallery.FIGURES` lists the functions that make drawings of a `subject.Subject`, which is one data set of a
sweep, and `gallery.SWEEP_FIGURES` those that compare its data sets. Importing these modules does not import matplotlib.

Read first: `panels`, then `scores`.
"""
