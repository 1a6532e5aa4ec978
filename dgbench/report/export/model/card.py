"""Write the model card, `README.md`: training, choice, accuracy on held-out domains, confusion, limits, licences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from dgbench.core.grid import pipes
from dgbench.core.run import ALL_TRIALS
from dgbench.core.wording import count_nouns, format_value, printable
from dgbench.models.exported import ONNX, PROGRAM, WEIGHTS, ExportedModel
from dgbench.report.export.model.choice import Chosen
from dgbench.report.networks import describe_networks
from dgbench.report.predictions.metrics import LackingError
from dgbench.report.statistics import t_interval

CARD = "README.md"
"""Name of the file."""
_MOST_CLASSES = 15
"""Most classes of a confusion matrix; of more, the most frequent confusions are listed."""
_Z = 1.96
"""Standard errors on either side of a 95 % interval."""


def card(about: ExportedModel, chosen: Chosen, measured: Chosen, files: Sequence[str]) -> str:
    """Return the text of a model card, with the header that the Hugging Face hub reads.

    Args:
        about: The content of `model.json`.
        chosen: The model.
        measured: The place whose accuracy is shown: that of the model, or for one that trained on all domains the row's
            in a sweep that held domains out.
        files: Names of the files in the folder.
    """
    parts = [*_header(about), *_training(about, chosen), *_choice(about, chosen), *_accuracy(chosen, measured)]
    parts += [*_confusion(measured), *_limits(about, chosen), *_licences(about), *_use(about, files)]
    return "\n".join(parts) + "\n"


def trained_on_all(about: ExportedModel) -> bool:
    """Return whether a model was trained on the domains that its sweep tests, too."""
    return set(about.held_out) <= set(about.training_domains)


def _header(about: ExportedModel) -> Iterator[str]:
    yield from ("---", f"library_name: {'timm' if about.form == 'timm' else 'pytorch'}", "license: other")
    yield from ("pipeline_tag: image-classification", "tags:", "- domain-generalization", "- dgbench", "---", "")
    without = "trained on all domains" if trained_on_all(about) else f"without {_text(' and '.join(about.held_out))}"
    yield from (f"# {_text(about.row)} on {_text(about.dataset)}, {without}", "")


def _training(about: ExportedModel, chosen: Chosen) -> Iterator[str]:
    counts = np.sum(np.array(about.class_counts, dtype=np.int64), axis=0)
    yield from ("## Training", "")
    yield f"- Method {_text(about.row)}, run `{about.run}`, weights after step {about.step} of {_steps(chosen)}"
    yield f"- Trained on {int(counts.sum()):,} images of {_listed(about.training_domains)}"
    if not trained_on_all(about):
        yield f"- Not trained on {_listed(about.held_out)}"
    yield f"- {len(about.classes)} classes: {_listed(about.classes)}"
    size = " x ".join(map(str, about.input_shape))
    started = f"from {_text(about.weights)}" if about.weights else "from random weights"
    yield f"- Network {_text(about.backbone)}, inputs of {size}, {started}"
    values = ", ".join(f"{name} {format_value(value)}" for name, value in about.hparams.items())
    yield f"- Hyperparameters (draw {about.hparams_seed}): {_text(values)}"
    yield ""


def _steps(chosen: Chosen) -> str:
    setting = chosen.results.settings.get(chosen.dataset)
    return f"{setting.steps}" if setting else "unknown length"


def _choice(about: ExportedModel, chosen: Chosen) -> Iterator[str]:
    results, metric = chosen.results, chosen.results.metric(chosen.dataset)
    spots = results.at(chosen.row, chosen.dataset, (chosen.position, chosen.trial))
    yield from ("## Choice", "")
    draws = count_nouns(len(spots), "draw")
    yield f"- By {chosen.selector.label}, among the evaluated steps of {draws} of hyperparameters"
    if chosen.trial != ALL_TRIALS:
        yield f"- Trial {chosen.trial}"
    if about.validation is not None:
        yield f"- {metric.capitalize()} on the training domains' validation parts: {100 * about.validation:.1f} %"
    if about.calibrated_on:
        yield f"- Probabilities are calibrated by a temperature of {about.temperature:.3g}, fitted to"
        yield f"  {about.calibrated_on:,} validation images of the training domains"
    else:
        yield "- Probabilities are the network's own: no wrong predictions on validation images are kept to fit by"
    yield ""


def _accuracy(chosen: Chosen, measured: Chosen) -> Iterator[str]:
    """Yield the section of the accuracy on domains that models of this row were not trained on."""
    results, selector, row, dataset = measured.results, measured.selector, measured.row, measured.dataset
    metric = results.metric(dataset)
    if set(chosen.fold.held_out) <= set(chosen.fold.training_domains):
        yield from ("## Accuracy", "", "This model was trained on all domains, so nothing measures how well it does on")
        yield "new ones. " + (
            "The table is of models of the same method that did not see the domain."
            if measured is not chosen
            else "A sweep that holds domains out does; name it by `--measured` to have its table here."
        )
        yield ""
        if measured is chosen:
            return
    else:
        error = _Z * measured.pick.sampling_error()
        about = "" if np.isnan(error) else f" ± {100 * error:.1f} (95 % interval, from the number of test images)"
        yield from (f"## {metric.capitalize()} on held-out domains", "")
        domains = _listed(measured.fold.held_out)
        yield from (f"This model on {domains}: **{100 * measured.pick.score:.1f} %**{about}.", "")
    header = ("held-out domain", f"{_text(row)}, mean over trials", "95 % interval", "trials")
    yield from pipes([header, *_by_domain(measured)], [" --- ", *(" ---: " for _ in header[1:])])
    yield from (
        "",
        f"Chosen by {selector.label}; intervals are Student's over trials. Protocol: {results.protocol}.",
        "",
    )


def _by_domain(measured: Chosen) -> Iterator[tuple[str, str, str, str]]:
    """Yield a line for each fold: the row's score over trials."""
    results, selector, row, dataset = measured.results, measured.selector, measured.row, measured.dataset
    for position in results.reported(dataset):
        trials = sorted(t for p, t in results.candidates.get((row, dataset), {}) if p == position)
        outcomes = [selector.choose(results, row, dataset, position, trial) for trial in trials]
        scores = [outcome.pick.score for outcome in outcomes if outcome.pick and not outcome.gaps]
        name = _listed(results.folds[position].held_out)
        if not scores:
            yield name, "runs are lacking", "", f"0 of {len(trials)}"
            continue
        found = t_interval(scores)
        interval = "-" if found.refused else f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"
        yield name, f"{100 * float(np.mean(scores)):.1f} %", interval, f"{len(scores)} of {len(trials)}"


def _confusion(measured: Chosen) -> Iterator[str]:
    """Yield the confusions of the chosen model on its held-out domains, if its predictions are kept."""
    series, views = measured.series, measured.fold.test
    try:
        found = measured.results.kept.predicted(series.run, series.predictor, measured.pick.step, views)
    except LackingError:
        return
    classes, n = found[0].classes, len(found[0].classes)
    counts = sum(np.bincount(view.labels * n + view.predicted, minlength=n * n) for view in found)
    matrix = np.asarray(counts).reshape(n, n)
    yield from (f"## Confusion on {_listed(measured.fold.held_out)}", "")
    if n <= _MOST_CLASSES:
        yield from ("Images by class (lines) and by predicted class (columns).", "")
        header = ("", *map(_text, classes))
        lines = [(name, *map(str, row)) for name, row in zip(header[1:], matrix.tolist(), strict=True)]
        yield from pipes([header, *lines], [" --- ", *(" ---: " for _ in classes)])
    else:
        wrong = matrix * (1 - np.eye(n, dtype=matrix.dtype))
        for place in np.argsort(-wrong, axis=None, kind="stable")[:10].tolist():
            label, taken = divmod(place, n)
            if wrong[label, taken]:
                of = f"{wrong[label, taken]} of {matrix[label].sum()} {_text(classes[label])}"
                yield f"- {of} are taken for {_text(classes[taken])}"
    yield ""


def _limits(about: ExportedModel, chosen: Chosen) -> Iterator[str]:
    yield from ("## Limits", "")
    yield "- Every image gets one of the classes above, also an image of something else."
    yield "- Accuracy on a further domain may lie far from every number above, as held-out domains differ, too."
    if about.calibrated_on:
        yield "- Probabilities are calibrated on domains that were trained on; on others they tend to be too high."
    for line in describe_networks(chosen.results):
        if line.dataset == about.dataset and line.footnote:
            yield f"- {_text(line.footnote)}"
    yield ""


def _licences(about: ExportedModel) -> Iterator[str]:
    yield from ("## Licences", "")
    if about.weights:
        trained = f", trained on {_text(about.weights_data)}" if about.weights_data else ""
        licence = _text(about.weights_licence or "unknown")
        yield f"- Initial weights: {_text(about.weights)}{trained}; licence: {licence}"
    yield f"- Data set: {_text(about.dataset)}; licence: {_text(about.dataset_licence or 'unknown')}"
    yield ""


def _use(about: ExportedModel, files: Sequence[str]) -> Iterator[str]:
    needed = "torch and timm" if about.form == "timm" else "torch and numpy"
    yield from ("## Use", "", "```bash", f"python example.py image.jpg           # needs {needed} alone")
    yield from ("dgbench predict . images/ --csv predictions.csv", "```", "")
    texts = {
        "model.json": "classes, preprocessing and all facts above",
        WEIGHTS: f"weights, {'for timm.create_model' if about.form == 'timm' else 'by their names in dgbench'}",
        PROGRAM: "a program for torch.export.load: images (B, C, H, W) in [0, 1] to logits",
        ONNX: "the same as ONNX: input `images`, output `logits`",
    }
    yield from (f"- `{name}`: {text}" for name, text in texts.items() if name in files)
    yield from ("", f"Written by dgbench {about.version}.")


def _listed(names: Sequence[str]) -> str:
    """Join names, escaped; of very many the first."""
    shown = [_text(name) for name in names[:100]]
    return ", ".join(shown) + (f" and {len(names) - 100:,} more" if len(names) > 100 else "")


def _text(text: str) -> str:
    """Escape the characters of a text that Markdown would act on."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", printable(text))
