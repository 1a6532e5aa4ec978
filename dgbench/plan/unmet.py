"""Find needs that a request leaves unmet: of methods on their cards, of settings, and of batch norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dgbench.core.cards import needs_of
from dgbench.core.needs import DECLINED, HIDDEN_BY_FEATURES, NEEDS, Need, holds, with_values
from dgbench.core.setting import Setting
from dgbench.core.space import Value
from dgbench.networks.backbones import BUILTIN_BACKBONES, EMBEDDING, is_timms
from dgbench.networks.clip_names import is_clip, zero_shot_problem
from dgbench.plan.asked import Asked

_OF_SETTING: Mapping[tuple[str, Value, str], str] = {
    ("class_balanced", True, "classes"): "class_balanced needs labels that are classes, which {dataset} has not",
    ("classifier_init", "linear_probe", "classes"): (
        "classifier_init 'linear_probe' needs labels that are classes, which {dataset} has not"
    ),
    ("classifier_init", "zero_shot", "classes"): (
        "classifier_init 'zero_shot' needs labels that are classes, which {dataset} has not"
    ),
    ("freeze", "featurizer", "own_classifier"): (
        "on {dataset} the classifier is the language model's own, so freeze can't be 'featurizer': nothing would learn"
    ),
    ("stored_features", True, "feature_vectors"): (
        "stored_features needs one vector of features an example, which {backbone!r} doesn't give on {dataset}"
    ),
    ("freeze", "classifier", "own_classifier"): (
        "on {dataset} the classifier is the language model's own, so freeze can't be 'classifier'"
    ),
    ("freeze", "classifier", "learning_features"): (
        "backbone {backbone!r} is a classifier alone, so on {dataset} freeze can't be 'classifier': nothing would learn"
    ),
    ("freeze", "embedding", "learning_features"): (
        "backbone {backbone!r} is a classifier alone, so on {dataset} freeze can't be 'embedding'"
    ),
    ("freeze", "embedding", EMBEDDING): (
        "which layers of backbone {backbone!r} read the input is not known, so on {dataset} freeze can't be 'embedding'"
    ),
}
"""(field of the setting, value, the need of that value) -> the message if the need is not met."""


def unfit_setting(asked: Asked) -> Iterator[str]:
    """Yield values of the setting that the data set or the network can't follow with any row."""
    backbone, dataset, lacks = asked.setting.backbone, asked.facts.name, asked.facts.lacking(asked.setting)
    # Rows that start so whatever the sweep says have needs on their cards, which refuse networks that are no CLIP.
    settings = asked.settings() if is_clip(backbone) else [asked.setting]
    for setting in settings:
        if setting.classifier_init == "zero_shot" and (problem := zero_shot_problem(backbone)):
            yield f"on {dataset}, classifier_init 'zero_shot': {problem}"
        elif setting.classifier_init == "zero_shot" and not (setting.pretrained or setting.weights):
            yield "classifier_init 'zero_shot' needs CLIP's weights, and pretrained is false: leave out one of them"
    for need in BUILTIN_BACKBONES[backbone].needs if backbone in BUILTIN_BACKBONES else ():
        if need.what in lacks:
            yield _unmet(f"backbone {backbone!r}", need, asked.setting, dataset)
    if asked.setting.layer_decay < 1 and not is_timms(backbone):
        yield f"layer_decay needs a network of timm, whose layers are known; on {dataset} the network is {backbone!r}"
    for (name, value, what), problem in _OF_SETTING.items():
        if what in lacks and getattr(asked.setting, name) == value:
            yield problem.format(dataset=dataset, backbone=backbone)


def unmet_needs(asked: Asked) -> Iterator[str]:
    """Yield needs of methods that are not met although some draw has them."""
    for entry in asked.entries():
        lacks = asked.facts.lacking(asked.setting_of(entry))
        for need in needs_of(entry.card):
            drawn = asked.drawn(entry) if need.when else [{}]
            if need.what in lacks and any(holds(need.when, hparams) for hparams in drawn):
                yield _unmet(entry.name + with_values(need.when), need, asked.setting, asked.facts.name)


def _unmet(who: str, need: Need, setting: Setting, dataset: str) -> str:
    """Word an unmet need of a method or network."""
    if need.what in DECLINED:
        return f"{who} can't be trained with {DECLINED[need.what]}: it {need.why}"
    if setting.stored_features and need.what in HIDDEN_BY_FEATURES:
        return f"{who} needs {NEEDS[need.what]}, which it would not have with stored_features true"
    return f"{who} needs {NEEDS[need.what]}, which it would not have on {dataset}"


def batches_of_one(asked: Asked) -> Iterator[str]:
    """Yield algorithms whose batch norm would take statistics of a single example."""
    if asked.setting.batch_norm != "live" or "batch_norm" in asked.facts.lacking(asked.setting):
        return
    for row in asked.request.rows:
        entry = asked.algorithm(row)
        if any(hparams.get("batch_size") == 1 for hparams in asked.drawn(entry)):
            yield (
                f"{entry.name} with batch_size 1 on {asked.facts.name}: live batch norm takes statistics of each "
                "batch, and one example has none. Add --set batch_size=2"
            )


def split_batches(asked: Asked) -> Iterator[str]:
    """Yield the problem of a batch norm that would take statistics of parts of a minibatch."""
    setting = asked.setting
    if setting.microbatch and setting.batch_norm == "live" and "batch_norm" not in asked.facts.lacking(setting):
        yield (
            f"microbatch {setting.microbatch} on {asked.facts.name}: batch norm of {setting.backbone!r} is live, so it "
            "would take statistics of each part of a minibatch, and training would be another. Leave it out (--set "
            "checkpoint_activations=true saves memory, too), freeze batch norm, or choose a backbone without"
        )
