"""The numbers behind a report's pictures, and how its blocks are written."""

import dataclasses

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure

from sentiment_jax.analysis import figures
from sentiment_jax.analysis.html import TEMPLATES
from sentiment_jax.analysis.predictions import (
    Predictions,
    accuracy_by_length,
    calibrate,
    calibration,
    calibration_bins,
    confusion,
    hardest_mistakes,
    mcnemar,
)
from sentiment_jax.config import CLASSES


def make_predictions(p_positive, labels):
    count = len(labels)
    return Predictions(
        ids=tuple(f"row {i}" for i in range(count)),
        classes=CLASSES,
        labels=np.array(labels, np.int32),
        probabilities=np.stack([1 - np.float32(p_positive), np.float32(p_positive)], axis=2),
        words=np.full(count, 9, np.int32),
        tokens=np.full(count, 9, np.int32),
        truncated=np.zeros(count, bool),
    )


def test_confusion_and_hardest_mistakes():
    predictions = make_predictions(
        [[0.9, 0.2, 0.8, 0.3], [0.7, 0.4, 0.1, 0.4]],
        [1, 0, 0, 1],
    )
    np.testing.assert_array_equal(confusion(predictions), [[1.5, 0.5], [1, 1]])
    np.testing.assert_array_equal(predictions.right, [1, 1, 0.5, 0])
    # Row 2 is wrong for one seed but right in the mean.
    assert hardest_mistakes(predictions, 5) == [3]
    harder = make_predictions([[0.1, 0.9, 0.4, 0.8]], [1, 0, 1, 1])
    assert hardest_mistakes(harder, 5) == [0, 1, 2]
    assert hardest_mistakes(harder, 1) == [0]


def test_calibration_bins():
    p = np.array([0.05, 0.05, 0.95, 0.95, 1.0], np.float32)
    labels = np.array([0, 1, 1, 1, 0]) == 1
    means, shares, error = calibration_bins(p, labels)
    np.testing.assert_allclose(means, [0.05, 2.9 / 3], rtol=1e-6)
    np.testing.assert_allclose(shares, [0.5, 2 / 3])
    assert error == pytest.approx(0.4 * 0.45 + 0.6 * 0.3)
    assert calibration_bins(labels.astype(np.float32), labels)[2] == 0


def test_many_classes_are_calibrated_by_their_verdicts():
    """Three classes: the verdict's probability against how often it is right."""
    probabilities = np.float32([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]])
    two = make_predictions([[0.5] * 3], [0, 0, 0])
    labels = np.array([0, 1, 2], np.int32)
    three = dataclasses.replace(two, classes=("a", "b", "c"), labels=labels)
    three = dataclasses.replace(three, probabilities=probabilities)
    means, shares, error = calibration(three)
    np.testing.assert_allclose(means, [0.4, 0.7, 0.8], rtol=1e-6)
    assert shares == [1, 1, 0] and error == pytest.approx((0.6 + 0.3 + 0.8) / 3)
    np.testing.assert_array_equal(confusion(three), [[1, 0, 0], [0, 0, 1], [0, 0, 1]])
    assert hardest_mistakes(three, 5) == [1]


def test_mcnemar_against_a_table_worked_by_hand():
    """Of ten reviews on which two models differ, nine for the second: 2 * (1 + 10) / 2**10."""
    first = np.array([True] * 30 + [False] * 6 + [True] + [False] * 9)
    second = np.array([True] * 30 + [False] * 6 + [False] + [True] * 9)
    only_first, only_second, p = mcnemar(first, second)
    assert (only_first, only_second) == (1, 9) and p == pytest.approx(22 / 1024)
    assert mcnemar(second, first) == (9, 1, p)
    assert mcnemar(first, first) == (0, 0, 1.0)  # models that never differ


def test_a_score_on_an_edge_belongs_to_the_bin_above():
    means, shares, _ = calibration_bins(np.array([0.5, 0.59], np.float32), np.array([False, True]))
    assert len(means) == 1 and shares == [0.5]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **options: figures.append(f) or savefig(f, *a, **options)
    )
    return figures


def test_truncated_reviews_stand_apart(tmp_path, drawn):
    rng = np.random.default_rng(0)
    words = rng.integers(10, 900, 2000).astype(np.int32)
    predictions = make_predictions([np.where(words > 400, 0.1, 0.9)], np.ones(2000))
    predictions = dataclasses.replace(predictions, words=words, truncated=words > 400)
    edges, points = accuracy_by_length({"model": predictions})
    assert (edges[0], edges[-1]) == (10, 900)
    assert set(points["bin"]) == set(range(len(edges) - 1))
    figures.accuracy_by_length(["model"], edges, points, tmp_path / "length.png")
    (axes,) = drawn[0].axes
    lines = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert set(lines) == {"model, whole", "model, truncated"}
    assert set(lines["model, whole"].get_ydata()) == {1.0}
    assert set(lines["model, truncated"].get_ydata()) == {0.0}
    assert lines["model, truncated"].get_linestyle() == "--"


def test_a_calibrated_curve_stands_beside_the_models_own(tmp_path, drawn):
    """Two seeds that are too sure, each by a temperature of its own."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=5000)
    labels = rng.random(5000) < 1 / (1 + np.exp(-logits))
    sure = [1 / (1 + np.exp(-scale * logits)) for scale in (2, 4)]
    own = make_predictions(np.round(sure, 6), labels)  # as in predictions.csv
    softened = calibrate(own, [2.0, 4.0])
    np.testing.assert_allclose(softened.probabilities[0], softened.probabilities[1], atol=0.01)
    np.testing.assert_array_equal(softened.verdicts, own.verdicts)
    curves = {"model": calibration(own)}, {"model": calibration(softened)}
    assert curves[1]["model"][2] < 0.02 < 0.1 < curves[0]["model"][2]
    figures.calibration(*curves, ("p", "share"), tmp_path / "calibration.png")
    figures.calibration(curves[0], {}, ("p", "share"), tmp_path / "calibration.png")
    shown = [[line.get_label() for line in figure.axes[0].lines[1:]] for figure in drawn]
    errors = [f"{of['model'][2]:.3f}" for of in curves]
    first = f"model (calibration error {errors[0]})"
    assert shown == [[first, f"calibrated ({errors[1]})"], [first]]


def write(kind, call, **values):
    """One call of a macro that Markdown ("md") or the page ("html") is written with."""
    source = f'{{% import "blocks.{kind}.j2" as write %}}{call}'
    return TEMPLATES.from_string(source).render(values)


def test_blocks():
    rows = [["x<y", 1.005], [None, 2]]
    frame = pandas.DataFrame(rows, columns=["a|b", "test loss"], dtype=object)
    lines = "| a\\|b | test loss |\n| --- | ---: |\n| x&lt;y | 1.0050 |\n| – | 2.0000 |\n\n"
    assert write("md", "{{ write.table(frame) }}", frame=frame) == lines
    html = write("html", "{{ write.table(frame) }}", frame=frame)
    assert '<td class="name">x&lt;y</td>' in html and '<td class="number">1.0050</td>' in html
    heading = '{{ write.heading(2, "H & M") }}'
    assert write("md", heading) == "## H &amp; M\n\n"
    assert write("html", heading) == "<h2>H &amp; M</h2>\n"
    fold = '{% call write.fold("more") %}{{ write.text("a < b") }}{% endcall %}'
    assert write("md", fold) == ""
    html = "<details><summary>more</summary>\n<p>a &lt; b</p>\n</details>\n"
    assert write("html", fold) == html


def test_texts_are_shown_not_obeyed():
    """Row 58: tags, links, code, a cell's end, and characters that turn a text's direction."""
    frame = pandas.DataFrame([["<b>`![x](http://y)`\\|\nz\u202e\x1b[2J"]], columns=["text"])
    cell = write("md", "{{ write.table(frame) }}", frame=frame).splitlines()[2]
    assert cell == r"| &lt;b&gt;\`!\[x\](http://y)\`\\\| z\u202e\x1b\[2J |"
    html = write("html", "{{ write.table(frame) }}", frame=frame)
    assert "<b>" not in html and "\u202e" not in html and r"z\u202e\x1b[2J" in html
    command = write("md", "{{ write.command(text) }}", text="a\n```\n<script>")
    assert command == "```bash\na ``` <script>\n```\n\n"


def test_a_picture_names_what_it_shows(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"png")
    picture = "{{ write.picture(path, text) }}"
    html = write("html", picture, path=path, text='a "quoted" <plot>')
    assert 'alt="a &#34;quoted&#34; &lt;plot&gt;"' in html
    assert 'src="data:image/png;base64,cG5n"' in html
    assert write("md", picture, path=path, text="a plot") == "![a plot](a.png)\n\n*a plot.*\n\n"
