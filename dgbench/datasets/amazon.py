"""Amazon: the stars of product reviews, by other reviewers than in training, as WILDS splits them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgbench.core.data_cards import DatasetCard
from dgbench.datasets._wilds import Indices
from dgbench.datasets._wilds_texts import WildsTexts


class Amazon(WildsTexts):
    """Product reviews with one to five stars, in WILDS' split: training and test reviewers differ.

    The card's domain `official` is the split; the domains for algorithms are reviewers, of which four are drawn for
    each step. `val` and `test` have other reviewers than `train`, `id_val` and `id_test` the same. The score is the
    accuracy of the reviewer at the 10th percentile. Inputs are 512 tokens for a language model, or for `MLP` a bag of
    words.

    Files are read, split and scored by the wilds package.

    Departure from WILDS: reviewers are numbered as they first appear in the file, since wilds' own numbers differ
    between processors; no score depends on them.

    Reference:
        Ni, Li and McAuley, "Justifying Recommendations Using Distantly-Labeled Reviews and Fine-Grained Aspects",
        EMNLP-IJCNLP 2019.
        Koh, Sagawa et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts", ICML 2021.
    """

    card = DatasetCard(
        source="https://worksheets.codalab.org/rest/bundles/0xe3ed909786d34ee79d430d065582aa29/contents/blob/ (wilds)",
        licence="none stated; its authors ask for research use only",
        paper="Ni et al., Justifying Recommendations Using Distantly-Labeled Reviews and Fine-Grained Aspects, 2019",
        link="https://aclanthology.org/D19-1018/",
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
    held = "_input_array"
    files = ("reviews.csv", "splits/user.csv")
    grouped_by = ("user",)
    scored = ("10th_percentile_acc", "acc_avg")

    def grouped(self, source: Any) -> Indices:
        """Return the reviewer of each row, numbered by first appearance."""
        # wilds numbers users after an unstable `np.argsort`, whose order of ties differs between numpy versions and
        # processors.
        _, first, inverse = np.unique(super().grouped(source), return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[inverse]
