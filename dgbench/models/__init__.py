"""Use a trained model outside of its sweep: facts about it, a network from images to logits, and predictions of files.

`facts` is what a file of weights says of itself, `ready` a model in memory that predicts, `images` reads image files as
the model's training read them. `execute.kept` makes a `ReadyModel` of a run's kept weights.

May import networks, data and core. Read first: `ready`.
"""
