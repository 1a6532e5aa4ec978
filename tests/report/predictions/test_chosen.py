"""Metrics of chosen models: of a real sweep that kept its predictions, as frame, table and selector."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from dgbench import load_results
from dgbench.collect import main
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.report.frames import SweepResults
from dgbench.report.page.build import build_page
from dgbench.report.predictions.metrics import METRICS
from dgbench.report.predictions.selector import NOT_KEPT
from dgbench.report.predictions.tally import tally_of
from dgbench.report.results import Series
from dgbench.report.selectors import METRIC_SELECTORS, SELECTORS
from dgbench.store.predictions import find_steps, read
from tests.support.in_process import execute_all, sweep_of

mpl.use("agg")
from matplotlib import pyplot

ROWS = ("ERM", "ERM+SMA", "ERM+DiWA")
SET = "ColoredDigits"


def sweep_at(root: Path, keep: str) -> Path:
    asked = {"datasets": [SET], "test_envs": ["+80%", "-90%"], "single_test_envs": True, "n_hparams": 2, "n_trials": 2}
    space = {"space": {"lr": "{0.1, 0.02}"}, "setting": {"steps": 13, "checkpoint_freq": 4}}
    site = Site(device="cpu", save_predictions=keep)  # type: ignore[arg-type]
    execute_all(sweep_of(root, *ROWS, site=site, **asked, **space))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep_at(tmp_path_factory.mktemp("all") / "s", "all")


@pytest.fixture(scope="module")
def results(folder: Path) -> SweepResults:
    return load_results(folder)


def series_of(results: SweepResults) -> Iterator[tuple[int, Series]]:
    for spots in results.results.candidates.values():
        for (fold, _), seeds in spots.items():
            yield from ((fold, series) for series in seeds.values() if isinstance(series, Series))


def test_the_frame_has_each_metric_of_each_choice(results: SweepResults) -> None:
    frame = results.metrics("training-domain")
    picks = results.picks("training-domain")
    assert len(frame) == len(picks) * (len(METRICS) + 1), "two classes"
    lacking = frame[frame["value"].isna()]
    assert set(lacking["metric"]) == {"medium_shot", "few_shot"}
    assert set(lacking["why"]) == {
        "no class that is tested has 20 to 100 training examples",
        "no class that is tested has fewer than 20 training examples",
    }
    worst = frame[frame["metric"] == "worst_domain"]["value"].to_numpy()
    np.testing.assert_allclose(worst, picks["score"], rtol=1e-12, err_msg="one test domain")
    groups = frame[frame["metric"] == "worst_group"]["value"].to_numpy()
    assert (groups <= frame[frame["metric"] == "worst_class"]["value"].to_numpy()).all()


def test_values_are_of_the_chosen_model_on_the_test_domain(results: SweepResults, folder: Path) -> None:
    frame = results.metrics("oracle", ["per_class"]).set_index(["row", "held_out", "trial", "of_class"])["value"]
    for pick in results.picks("oracle").itertuples():
        path = find_steps(folder / "runs" / pick.run)[pick.predictor, pick.step]
        found = read(path, [f"{pick.held_out}/in"])
        view = found.views[f"{pick.held_out}/in"]
        for number, name in enumerate(found.classes):
            own = view.labels == number
            expected = (view.logits[own].argmax(axis=1) == number).mean()
            assert frame[pick.row, pick.held_out, pick.trial, name] == pytest.approx(expected)


def test_likelihood_is_the_recorded_loss(results: SweepResults) -> None:
    picks, records = results.picks("training-domain"), results.records
    losses = records[(records["metric"] == "loss") & (records["part"] == "in")]
    found = results.metrics("training-domain", ["nll"])["value"].to_numpy()
    for pick, value in zip(picks.itertuples(), found, strict=True):
        own = losses[(losses["row"] == pick.row) & (losses["run"] == pick.run) & (losses["step"] == pick.step)]
        (expected,) = own[own["domain"] == pick.held_out]["value"]
        assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["worst-group", "nll", "macro-f1"])
def test_a_selector_takes_the_best_of_the_kept_models(name: str, results: SweepResults) -> None:
    selector, metric, kept = METRIC_SELECTORS[name], METRICS[name.replace("-", "_")], results.results.kept
    spots = results.results.candidates["ERM", SET]
    chosen = set()
    for (fold, trial), seeds in spots.items():
        views = results.results.folds[fold].validation
        best = -np.inf
        for series in seeds.values():
            assert isinstance(series, Series)
            for step in series.steps:
                value = kept.metric(metric, series.run, series.predictor, step, views)[""]
                best = max(best, value if metric.higher else -value)
        pick = selector.choose(results.results, "ERM", SET, fold, trial).pick
        assert pick
        assert pick.value == best
        chosen.add((pick.hparams_seed, pick.step))
        series = seeds[pick.hparams_seed]
        assert isinstance(series, Series)
        assert pick.score == series.mean(results.results.folds[fold].test)[series.steps.index(pick.step)]
        assert selector.models(results.results, "ERM", SET, fold, trial, 0) == 4
    assert len(chosen) > 1


def test_what_is_not_kept_is_no_number_and_said(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "s")
    results = load_results(tmp_path / "s")
    gone = results.picks("training-domain").iloc[0]
    shutil.rmtree(tmp_path / "s" / "runs" / gone["run"] / "predictions")
    frame = load_results(tmp_path / "s").metrics("training-domain", ["ece"])
    assert set(frame[frame["value"].isna()]["why"]) == {"its predictions are not kept: launch with --save_predictions"}
    assert main([str(tmp_path / "s"), "--metrics", "ece", "--selector", "training-domain", "worst-group"]) == 0
    text = capsys.readouterr().out
    assert "# - ERM" in text
    assert ": no ece, its predictions are not kept" in text
    assert f"1 run {NOT_KEPT}" in text, "under the selector, too"
    assert main([str(tmp_path / "s"), "--metrics", "per_class", "--selector", "training-domain"]) == 0
    table = capsys.readouterr().out.partition("Metrics of")[2].splitlines()
    (line,) = [line.split() for line in table if line.startswith(f"{gone['row']} ")]
    assert line[1:] == ["-", "-"], "one fold without predictions, so no class has a number"
    for predictions in (tmp_path / "s" / "runs").glob("*/predictions"):
        shutil.rmtree(predictions)
    with pytest.raises(UserError, match="no predictions are kept: launch with --save_predictions"):
        load_results(tmp_path / "s").table("worst-group")


def test_predictions_are_found_in_each_of_several_folders(tmp_path: Path, results: SweepResults, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "s")
    for predictions in (tmp_path / "s" / "runs").glob("*/predictions"):
        shutil.rmtree(predictions)
    both = load_results(tmp_path / "s", folder).metrics("oracle", ["ece"])
    assert both["value"].tolist() == results.metrics("oracle", ["ece"])["value"].tolist()


def test_a_damaged_file_is_not_believed(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "s")
    pick = load_results(tmp_path / "s").picks("oracle").iloc[0]
    path = find_steps(tmp_path / "s" / "runs" / pick["run"])[pick["predictor"], pick["step"]]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    frame = load_results(tmp_path / "s").metrics("oracle", ["ece"])
    assert "is not what was written" in frame["why"].iloc[0]
    assert np.isnan(frame["value"].iloc[0])


def test_the_table_is_the_mean_over_folds_then_over_trials(
    results: SweepResults, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--selector", "oracle", "--metrics", "ece", "nll", "worst_domain"]) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text[text.index("Metrics of") :].splitlines() if line.startswith("ERM+SMA")]
    frame = results.metrics("oracle", ["ece", "nll", "worst_domain"])
    own = frame[frame["row"] == "ERM+SMA"].pivot(index="trial", columns=["metric", "held_out"], values="value")
    ece, nll = (own[name].mean(axis=1) for name in ("ece", "nll"))
    worst = own["worst_domain"].min(axis=1)
    expected = [
        f"{100 * ece.mean():.1f} +/- {100 * ece.std() / 2**0.5:.1f}",
        f"{nll.mean():.3f} +/- {nll.std() / 2**0.5:.3f}",
        f"{100 * worst.mean():.1f} +/- {100 * worst.std() / 2**0.5:.1f}",
    ]
    assert re.split(r"\s{2,}", line)[1:] == expected
    assert "less is better: ece, nll" in text


def test_answers_of_all_choices_are_counted(results: SweepResults, folder: Path) -> None:
    tally = tally_of(results.results, SELECTORS["oracle"], "ERM", SET)
    confusion, examples, right = np.zeros((2, 2), int), 0, 0
    picks = results.picks("oracle")
    for pick in picks[picks["row"] == "ERM"].itertuples():
        name = f"{pick.held_out}/in"
        view = read(find_steps(folder / "runs" / pick.run)[pick.predictor, pick.step], [name]).views[name]
        for label, predicted in zip(view.labels, view.logits.argmax(axis=1), strict=True):
            confusion[label, predicted] += 1
        examples, right = examples + len(view.labels), right + round(pick.score * len(view.labels))
    assert tally.confusion.tolist() == confusion.tolist()
    counts, confidence, correct = tally.bins.sum(axis=1)
    assert (counts, correct) == (examples, right)
    assert examples / 2 < confidence < examples, "of two classes"
    label, taken, share = tally.most_confused
    assert {label, taken} == set(tally.classes)
    assert share == max(confusion[0, 1] / confusion[0].sum(), confusion[1, 0] / confusion[1].sum())


def test_figures_show_the_chosen_models(results: SweepResults) -> None:
    drawn = results.plot.confusion(selector="oracle")
    assert [axes.get_title() for axes in drawn] == list(ROWS)
    shares = tally_of(results.results, SELECTORS["oracle"], "ERM", SET).shares
    np.testing.assert_array_equal(drawn[0].get_images()[0].get_array(), shares)
    assert len(np.atleast_1d(results.plot.confusion())) == 2 * len(ROWS), "training-domain and oracle"
    curves = results.plot.reliability(selector="oracle")
    counts, confidence, right = tally_of(results.results, SELECTORS["oracle"], "ERM", SET).bins
    x, y = curves[0].get_lines()[1].get_data()
    shown = counts >= 10
    np.testing.assert_allclose(x, 100 * confidence[shown] / counts[shown])
    np.testing.assert_allclose(y, 100 * right[shown] / counts[shown])
    pyplot.close("all")


def test_the_page_holds_the_matrices_as_data(results: SweepResults) -> None:
    page = build_page(results, [SELECTORS["oracle"]])
    figure = page[page.index("Confusion matrices</h4>") :].partition("</figure>")[0]
    assert figure.count('href="data:image/png;base64,') == len(ROWS)
    assert "image-rendering" in figure
    assert "Reliability curves</h4>" in page
    assert "by oracle: " in page, "what a mark of a curve is"


def test_models_kept_by_selectors_alone_are_what_a_metric_chooses_from(tmp_path: Path) -> None:
    results = load_results(sweep_at(tmp_path / "s", "chosen"))
    selector = METRIC_SELECTORS["worst-class"]
    for fold, series in series_of(results):
        steps = {step for name, step in results.results.kept.steps(series.run) if name == series.predictor}
        assert steps
        assert series.steps[-1] in steps
        assert len(steps) <= 2, fold
    (table,) = [t for t in results.report("worst-class").tables if t.dataset]
    assert "of the models whose predictions are kept" in table.reads
    assert selector.label in table.title


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "macro-f1"], "--metrics: unknown metric 'macro-f1'"),
        (["--metrics", "ece", "--format", "csv"], "--metrics goes with --format text, "),
        (["--selector", "worst_group"], "'worst_group'"),
    ],
)
def test_wrong_names_are_refused(words: list[str], said: str, folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        main([str(folder), *words])
    assert said in str(caught.value)


def test_metrics_are_of_the_rows_that_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--selector", "oracle", "--metrics", "ece", "--rows", "*SMA"]) == 0
    _, _, section = capsys.readouterr().out.partition("Metrics of kept predictions")
    assert re.findall(r"^ERM\S*", section, re.MULTILINE) == ["ERM+SMA"]
