"""CivilComments: toxic online comments and the groups they mention, as WILDS splits them."""

from __future__ import annotations

from dgbench.core.data_cards import DatasetCard
from dgbench.datasets._wilds_texts import WildsTexts


class CivilComments(WildsTexts):
    """Online comments, toxic or not, in WILDS' split; the score is the worst accuracy over groups that they mention.

    The score is the worst accuracy of 16 groups, by mentioned identity and by toxicity. All parts come from one
    distribution: the shift is between groups, and `val` is in-domain. The domains for algorithms are four: comments
    that mention black people or don't, times toxic or not. Inputs are 300 tokens for a language model, or for `MLP` a
    bag of words.

    Files are read, split and scored by the wilds package, which counts a group without an example as accuracy 0.

    Reference:
        Borkan, Dixon, Sorensen, Thain and Vasserman, "Nuanced Metrics for Measuring Unintended Bias with Real Data for
        Text Classification", WWW 2019.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0x8cd3de0634154aeaad2ee6eb96723c6e/contents/blob/ (wilds)",
        licence="CC0",
        paper="Borkan et al., Nuanced Metrics for Measuring Unintended Bias with Real Data, WWW 2019",
        link="https://arxiv.org/abs/1903.04561",
        input_kind="texts",
        input_shape=(2, 300),
        domains=("official",),
        classes=("non-toxic", "toxic"),
        counts={"official": 448_000},
        parts={"train": 269_038, "val": 45_180, "test": 133_782},
        metric="acc_wg",
        backbone="distilbert-base-uncased",
        folder="civilcomments_v1.0",
        note="steps show as many examples as WILDS' 5 epochs, at 32 of each domain",
        steps=10_001,
        checkpoint_freq=1_000,
    )
    wilds_name = "civilcomments"
    held = "_text_array"
    files = ("all_data_with_identities.csv",)
    grouped_by = ("black", "y")
    scored = ("acc_wg", "acc_avg")
