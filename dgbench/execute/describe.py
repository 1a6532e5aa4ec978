"""Describe the models of a run by facts that a reader of their weights needs: names, preprocessing, origin."""

from __future__ import annotations

from collections.abc import Callable

from dgbench.core.run import MODEL, Run
from dgbench.core.setting import Setting
from dgbench.data.cache import CachedDataset
from dgbench.data.cache_format import CacheIndex
from dgbench.data.dataset import Dataset
from dgbench.data.decoding import Decoding
from dgbench.execute.context import RunContext
from dgbench.methods.algorithm import Algorithm
from dgbench.models.facts import ModelFacts, Preprocessing
from dgbench.networks.backbones import is_language_model
from dgbench.networks.network import Network
from dgbench.networks.pretraining import starts_pretrained, weights_card


def describe(context: RunContext, algorithm: Algorithm, predictor: str) -> ModelFacts:
    """Collect the facts about a predictor of a run.

    Args:
        context: The run, opened.
        algorithm: Built for the run; its network is described.
        predictor: The predictor's name.
    """
    run, trained, dataset, network = context.run, context.trained, context.dataset, algorithm.network
    setting, task = trained.setting, algorithm.task
    origin, data, licence = _origin(setting, network)
    return ModelFacts(
        row=row_of(run, predictor, lambda id: context.store.folder(id).run()),
        dataset=run.dataset,
        held_out=run.fold.held_out,
        training_domains=run.fold.training_domains,
        classes=tuple(dataset.classes) if task.kind == "classification" else (),
        task=task.kind,
        backbone=setting.backbone,
        input_shape=tuple(task.input_shape),
        preprocessing=_preprocessing(dataset, setting, network),
        precision=setting.precision,
        run=run.id,
        predictor=predictor,
        trial=run.trial,
        hparams_seed=run.hparams_seed,
        hparams=dict(trained.method.hparams),
        weights=origin,
        weights_hash=network.started_from,
        weights_data=data,
        weights_licence=licence,
        dataset_licence=dataset.card.licence,
        together=context.group_size,
        normalised=task.normalised,
        outputs=task.num_classes,
        class_counts=task.class_counts,
    )


def row_of(run: Run, predictor: str, read: Callable[[str], Run]) -> str:
    """Return the name of the row of a predictor, such as `ERM+SWAD+DiWA`.

    Args:
        run: The predictor's run.
        predictor: Its name.
        read: Returns a run by its id, for those that it stands on.
    """
    if run.kind == "train":
        return run.method.name if predictor == MODEL else f"{run.method.name}+{predictor}"
    source = run.inputs[0]
    return f"{row_of(read(source.run), source.predictor, read)}+{run.method.name}"


def _preprocessing(dataset: Dataset, setting: Setting, network: Network) -> Preprocessing | None:
    """Return the way in which a run reads images; None where its inputs are no images of one or three channels."""
    if dataset.input_kind != "images" or dataset.input_shape[0] not in (1, 3) or dataset.card.normalised:
        return None
    channels, height, width = dataset.input_shape
    index: CacheIndex | None = None
    decoding = Decoding()
    if isinstance(dataset, CachedDataset):
        cache = dataset.image_cache()
        decoding, index = cache.decode, CacheIndex.read(cache.folder) if setting.cache == "auto" else None
    # A cache of images in their own size is resized by OpenCV when it is read; all others hold what Pillow resized.
    own_size = index is not None and index.kind == "bytes" and (index.height, index.width) != (height, width)
    mean, std = (0.0,) * channels, (1.0,) * channels
    if network.normalizes:
        mean, std = tuple(network.mean.flatten().tolist()), tuple(network.std.flatten().tolist())
    return Preprocessing(
        channels,
        height,
        width,
        setting.interpolation,
        mean,
        std,
        on_white=decoding.on_white,
        turn=decoding.turn,
        resize="opencv" if own_size else "pillow",
    )


def _origin(setting: Setting, network: Network) -> tuple[str, str, str]:
    """Return the origin of the weights that training started from, their data, and their licence, as far as known."""
    name = setting.backbone
    if setting.weights:
        return f"a file with the sha256 {setting.weights}", "", ""
    if not starts_pretrained(setting):
        return f"the class {name}, which brings them" if network.started_from else "", "", ""
    # A class written for DomainBed has a stand-in for a network, which has no featurizer.
    facts = getattr(getattr(network, "featurizer", None), "pretrained_cfg", None) or {}
    tag = "" if "." in name else str(facts.get("tag") or "")
    card = weights_card(name, tag)
    source = "a language model" if is_language_model(name) else "timm"
    licence = str(facts.get("license") or "")
    return f"{name}{tag and f'.{tag}'} of {source}", card.trained_on if card else "", licence
