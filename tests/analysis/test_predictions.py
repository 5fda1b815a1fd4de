"""The numbers behind a report's pictures, and how its blocks are written."""

import dataclasses
import itertools

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from sentiment_jax.analysis import figures
from sentiment_jax.analysis.html import TEMPLATES
from sentiment_jax.analysis.predictions import (
    Predictions,
    calibrate,
    calibration,
    calibration_bins,
    confusion,
    hardest_mistakes,
)
from sentiment_jax.config.schema import CLASSES
from sentiment_jax.data.kinds import ONE_CLASS
from sentiment_jax.data.texts import of_numbers
from sentiment_jax.storage.selection import BY_ACCURACY, Ranking
from sentiment_jax.sweeps.plan import format_rate


def make_predictions(p_positive, labels):
    count = len(labels)
    return Predictions(
        ids=tuple(f"row {i}" for i in range(count)),
        order="",
        classes=CLASSES,
        labels=of_numbers(np.array(labels).astype(int), 2),
        probabilities=np.stack([1 - np.float32(p_positive), np.float32(p_positive)], axis=2),
        temperatures=(1.0,) * len(p_positive),
        thresholds=((),) * len(p_positive),
        kind=ONE_CLASS,
    )


def mistakes(predictions, count):
    return hardest_mistakes(predictions, count)["id"].tolist()


def test_confusion_and_hardest_mistakes():
    p_positive = [[0.9, 0.2, 0.8, 0.3], [0.7, 0.4, 0.1, 0.4]]
    predictions = make_predictions(p_positive, [1, 0, 0, 1])
    np.testing.assert_array_equal(confusion(predictions), [[1.5, 0.5], [1, 1]])
    # Row 2 is wrong for one seed but right on average.
    assert mistakes(predictions, 5) == ["row 3"]
    harder = make_predictions([[0.1, 0.9, 0.4, 0.8]], [1, 0, 1, 1])
    assert mistakes(harder, 5) == ["row 0", "row 1", "row 2"]
    assert mistakes(harder, 1) == ["row 0"]


def test_calibration_bins():
    p = np.array([0.05, 0.05, 0.95, 0.95, 1.0], np.float32)
    labels = np.array([0, 1, 1, 1, 0]) == 1
    bins, error = calibration_bins(p, labels)
    assert bins["count"].tolist() == [2, *[0] * 8, 3]
    np.testing.assert_allclose(bins["p"].dropna(), [0.05, 2.9 / 3], rtol=1e-6)
    np.testing.assert_allclose(bins["true"].dropna(), [0.5, 2 / 3])
    assert error == pytest.approx(0.4 * 0.45 + 0.6 * 0.3)
    assert calibration_bins(labels.astype(np.float32), labels)[1] == 0
    bins, _ = calibration_bins(np.array([0.5, 0.59], np.float32), np.array([False, True]))
    assert bins["count"].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 0], "lower edges belong to bins"


def test_many_classes_are_calibrated_by_the_predicted_one():
    probabilities = np.float32([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]])
    two = make_predictions([[0.5] * 3], [0] * 3)
    three = dataclasses.replace(
        two,
        classes=("a", "b", "c"),
        labels=np.eye(3, dtype=bool),
        probabilities=probabilities,
    )
    bins, error = calibration(three)
    bins = bins[bins["count"] > 0]
    np.testing.assert_allclose(bins["p"], [0.4, 0.7, 0.8], rtol=1e-6)
    assert bins["true"].tolist() == [1, 1, 0]
    assert error == pytest.approx((0.6 + 0.3 + 0.8) / 3)
    np.testing.assert_array_equal(confusion(three), [[1, 0, 0], [0, 0, 1], [0, 0, 1]])
    assert mistakes(three, 5) == ["row 1"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    figures = []

    def savefig(figure, path, **options):
        figures.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def test_equal_figures_have_equal_bytes_which_name_no_version(tmp_path, painted):
    figures.heat_map({("adam", "16"): ("0.5", 0.5)}, None, tmp_path / "a.png")
    figures.heat_map({("adam", "16"): ("0.5", 0.5)}, None, tmp_path / "b.png")
    raw = (tmp_path / "a.png").read_bytes()
    assert raw == (tmp_path / "b.png").read_bytes() and b"matplotlib" not in raw.lower()


def test_a_calibrated_curve_stands_beside_the_models_own(tmp_path, drawn):
    """Two seeds that are over-confident, each by a temperature of its own."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=5000)
    labels = rng.random(5000) < 1 / (1 + np.exp(-logits))
    confident = [1 / (1 + np.exp(-scale * logits)) for scale in (2, 4)]
    own = make_predictions(np.round(confident, 6), labels)  # as in predictions.csv
    softened = calibrate(dataclasses.replace(own, temperatures=(2.0, 4.0)))
    np.testing.assert_allclose(softened.probabilities[0], softened.probabilities[1], atol=0.01)
    np.testing.assert_array_equal(softened.predicted, own.predicted)
    lines = [calibration(own), calibration(softened)]
    assert lines[1][1] < 0.02 < 0.1 < lines[0][1]
    figures.calibration({"model": lines}, ("p", "share"), tmp_path / "calibration.png")
    shown = [line.get_label() for line in drawn[0].axes[0].lines[1:]]
    names = ("model", "at its temperature")
    assert shown == [f"{n} (error {e:.3f})" for n, (_, e) in zip(names, lines, strict=True)]


def test_a_bin_of_few_predictions_is_not_drawn(tmp_path, drawn):
    own = calibration_bins(np.float32([0.05] * 9 + [0.95] * 10), np.array([False] * 19))
    figures.calibration({"model": [own]}, ("p", "share"), tmp_path / "x.png")
    upper, lower = drawn[0].axes
    np.testing.assert_allclose(upper.lines[1].get_xdata(), [0.95])
    assert [bar.get_height() for bar in lower.patches if bar.get_height()] == [9, 10]


def epochs(*losses):
    """Lines of a metrics.jsonl with these validation losses; accuracy grows by epoch."""
    line = {"split": "val", "examples": 10, "seconds": 1.0}
    return [
        {**line, "epoch": e, "loss": v, "accuracy": 0.5 + e / 10} for e, v in enumerate(losses, 1)
    ]


def test_a_loss_that_explodes_is_cut_off(tmp_path, drawn):
    runs = {"calm": epochs(0.7, 0.6), "wild": epochs(0.7, 3e9), "late": epochs(0.7, 0.8)}
    figures.overlay(runs, "calm", tmp_path / "overlay.png")
    figures.curves(runs, tmp_path / "curves.png")
    for axes in (drawn[0].axes[1], drawn[1].axes[2]):
        assert axes.get_ylim()[1] < 3
        assert [text.get_text() for text in axes.texts] == ["cut off: up to 3e+09"]
    assert not drawn[1].axes[0].texts
    (best,) = [line for line in drawn[1].axes[0].lines if line.get_label() == "best epoch"]
    assert set(best.get_xdata()) == {2}
    figures.curves({"": epochs(0.7)}, tmp_path / "one.png")
    drawn[2].draw_without_rendering()
    ticks = [label.get_text() for label in drawn[2].axes[0].get_xticklabels()]
    assert "1" in ticks and all(map(str.isdigit, ticks)), "half an epoch is none"


@pytest.mark.parametrize(("select_by", "best"), [("accuracy", [2, 2]), ("loss", [2, 1])])
def test_an_overlay_has_a_thick_winner_and_rings_at_best_epochs(tmp_path, drawn, select_by, best):
    runs = {"calm": epochs(0.7, 0.6), "late": epochs(0.7, 0.8)}
    ranking = BY_ACCURACY if select_by == "accuracy" else Ranking(("loss", "accuracy"))
    figures.overlay(runs, "late", tmp_path / "overlay.png", ranking=ranking)
    for axes in drawn[0].axes:
        assert [line.get_linewidth() for line in axes.lines[::2]] == [1.3, 2.8]
        assert [ring.get_xdata()[0] for ring in axes.lines[1::2]] == best


def test_a_heat_map_outlines_the_winner(tmp_path, drawn):
    cells = {
        ("sgd 1e-1", "batch 16"): ("0.5000\nat chance", 0.5),
        ("adam 1e-1", "batch 16"): ("failed", np.nan),
        ("adam 1e-2", "batch 8"): ("0.9000", 0.9),
    }
    figures.heat_map(cells, ("adam 1e-2", "batch 8"), tmp_path / "map.png")
    axes, _ = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == [text for text, _ in cells.values()]
    (outline,) = axes.patches
    assert outline.get_xy() == (0.5, 1.5)
    colored = np.isfinite(np.ma.filled(axes.images[0].get_array(), np.nan))
    assert colored.tolist() == [[True, False], [False, False], [False, True]]


def test_long_names_stay_inside_their_figure(tmp_path, drawn):
    name = "own-amazonReviewSnippets_GroundTruth, learning rate 5e-3, seed 1234"
    classes = ("neither recommended nor not", "not recommended at all", "strongly recommended")
    lines = epochs(1.0)
    path = tmp_path / "a.png"
    figures.confusions({name: np.ones((3, 3)), f"{name} b": np.eye(3)}, classes, path)
    bins = calibration_bins(np.array([0.5], np.float32), np.array([True]))
    figures.calibration({name: [bins]}, ("p", "share"), path)
    figures.curves({name: lines}, path, f"{name}, {name}")
    figures.overlay({name: lines, f"b {name}": lines}, name, path, f"{name}, {name}")
    figures.heat_map({(name, f"batch {n}"): ("0.5\nat chance", 0.5) for n in range(8)}, None, path)
    for figure in drawn:
        figure.draw_without_rendering()
        left, bottom, right, top = figure.bbox.extents
        for text in figure.findobj(Text):
            box = text.get_window_extent()
            if len(text.get_text()) > 6:  # no number, of which some lie outside of an axis
                assert left <= box.x0 and box.x1 <= right + 1, text
                assert bottom <= box.y0 and box.y1 <= top + 1, text
    ticks = [label.get_window_extent() for label in drawn[0].axes[0].get_xticklabels()]
    assert all(one.x1 < next_.x0 for one, next_ in itertools.pairwise(ticks))


def test_text_in_a_heat_map_has_contrast(tmp_path, drawn):
    cells = {("a", f"{i}"): (f"{i}", 0.9 - i / 1000) for i in range(0, 50, 2)}
    figures.heat_map(cells, None, tmp_path / "a.png")
    for text, value in zip(drawn[0].axes[0].texts, [v for _, v in cells.values()], strict=True):
        image = drawn[0].axes[0].images[0]
        rgb = image.cmap(image.norm(value))[:3]
        linear = [c / 12.92 if c < 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        light = np.dot([0.2126, 0.7152, 0.0722], linear)
        ratio = 1.05 / (light + 0.05) if text.get_color() == "white" else (light + 0.05) / 0.05
        assert ratio > 4, text


def test_learning_rates_have_one_format():
    rates = {1e-4: "1e-4", 3e-5: "3e-5", 0.0025: "2.5e-3", 1.0: "1e0", 1e30: "1e30"}
    assert {rate: format_rate(rate) for rate in rates} == rates


# Tags, links, code, a cell's end, and characters that turn a text's direction.
ODD = "<b>`![x](http://y)`\\|\nz\u202e\x1b[2J"
FRAME = pandas.DataFrame([[ODD, 1.005], [None, 2]], columns=["a|b", "test loss"], dtype=object)


def test_pages_and_model_cards_show_texts_and_do_not_obey_them():
    table = '{% import "blocks.html.j2" as write %}{{ write.table(frame) }}'
    for template, expected in (
        (table, "&lt;b&gt;`![x](http://y)`\\|\nz\\u202e\\x1b[2J</td>"),
        (table, '</td><td class="number">1.0050'),
        ("{{ odd|markdown|safe }}", r"&lt;b&gt;\`!\[x\](http://y)\`\\\| z\u202e\x1b\[2J"),
    ):
        assert expected in TEMPLATES.from_string(template).render(frame=FRAME, odd=ODD)
