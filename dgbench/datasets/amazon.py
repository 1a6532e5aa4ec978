"""Amazon: how many stars a review gives, by other reviewers than in training, as WILDS splits it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgbench.core.cards import DatasetCard
from dgbench.datasets._wilds import Indices
from dgbench.datasets._wilds_texts import WildsTexts


class Amazon(WildsTexts):
    """How many stars a review gives; trained and tested on other reviewers (WILDS).

    Reported is the accuracy of the reviewer at the 10th percentile; the domains for algorithms are reviewers, numbered
    as they first appear in the file, since wilds' own numbers differ between processors. Inputs are 512 tokens for a
    language model, or for `MLP` a bag of words.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0xe3ed909786d34ee79d430d065582aa29/contents/blob/ (wilds)",
        licence="none stated; its authors ask for research use only",
        paper="Ni et al., Justifying Recommendations Using Distantly-Labeled Reviews and Fine-Grained Aspects, 2019",
        input_kind="texts",
        input_shape=(2, 512),
        domains=("official",),
        classes=("1 star", "2 stars", "3 stars", "4 stars", "5 stars"),
        counts={"official": 539_502},
        parts={"train": 245_502, "id_val": 46_950, "val": 100_050, "test": 100_050, "id_test": 46_950},
        domains_per_step=4,
        metric="10th_percentile_acc",
        backbone="distilbert-base-uncased",
        folder="amazon_v2.1",
        note="steps show as many examples as WILDS' 3 epochs, at 32 of each domain",
        steps=6_001,
        checkpoint_freq=1_000,
    )
    wilds_name = "amazon"
    files = ("reviews.csv", "splits/user.csv")
    grouped_by = ("user",)
    scored = ("10th_percentile_acc", "acc_avg")

    def grouped(self, source: Any) -> Indices:
        """The reviewer of each row, by first appearance."""
        _, first, inverse = np.unique(super().grouped(source), return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[inverse]
