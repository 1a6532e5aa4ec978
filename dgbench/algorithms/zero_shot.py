"""Zero-shot classification by CLIP, the row that fine-tuning must beat."""

from __future__ import annotations

from dgbench.algorithms._untrained import Untrained
from dgbench.core.cards import AlgorithmCard


class ZeroShot(Untrained):
    r"""Classify images by the nearest embedding of a class name, without any training.

    $$
    f(x)_c = \tau\, \Big\langle \frac{v(x)}{\lVert v(x) \rVert}, t_c \Big\rangle, \qquad
    t_c \propto \sum_p \frac{u(p(c))}{\lVert u(p(c)) \rVert}
    $$

    $v$ and $u$ are CLIP's towers for images and for texts, and $\tau$ is the scale that CLIP was trained with. $p(c)$
    is the name of class $c$ in a text, `prompt`, "a photo of a dog."; $t_c$ has length 1, and is a mean where `prompt`
    names a set of texts. Names are those of the data set, with spaces in place of underscores.

    A run has one step, which changes nothing, and one evaluation. No hyperparameter has an effect, so that there is one
    run for each fold and trial, whatever the number of draws.

    Reference:
        Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger and Sutskever, "Learning
        Transferable Visual Models From Natural Language Supervision", ICML 2021.

    Departures from the paper: one prompt for all data sets, where the paper writes some for each.
    """

    card = AlgorithmCard(
        paper="Radford et al., ICML 2021",
        link="https://arxiv.org/abs/2103.00020",
        tags=("pretraining",),
        forwards=0.0,
        backwards=0.0,
        setting={"classifier_init": "zero_shot"},
        learns=False,
        needs=("classes", "clip", "linear_classifier"),
    )
