import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sentiment_jax.config import DataConfig
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.errors import InputError
from sentiment_jax.predict import predict, predict_input, print_verdicts, read_input
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import load_run, prepare_experiment


@pytest.fixture(scope="module")
def trained(finished):
    return load_run(finished)


STRANGE = [
    "",
    "   \t",
    "nan",
    "<br /><br />",
    "\ufeffa good film",
    "\U0001f600\U0001f600 \u4e2d\u6587",
    "good " * 100_000,
    "\x00\x01",
    "\ud800",
]


def test_a_probability_for_whatever_comes_in(trained):
    p = predict(trained, STRANGE)
    assert p.shape == (len(STRANGE),)
    assert np.all((p > 0) & (p < 1))


def test_the_answer_does_not_depend_on_company(trained):
    texts = [f"a film of {n} good scenes" for n in range(20)]
    together = predict(trained, texts)
    alone = np.concatenate([predict(trained, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_predict_is_evaluate(trained):
    """The path of --mode=predict gives what the scoring of a split gives."""
    prepared = prepare_experiment(trained.config, trained.tokenizer)
    scores = scoring.score_reviews(
        trained, trained.params, prepared.encoded["val"], "val", batch_size=8
    )
    corpus = load_corpus(DataConfig(**trained.config.data.to_dict()))
    p = predict(trained, corpus.splits["val"].texts)
    np.testing.assert_allclose(p, scores.p_positive, atol=1e-6)


def output(capsys, trained, source):
    predict_input(trained, str(source))
    return [line.split(",") for line in capsys.readouterr().out.splitlines()]


def test_csv_rows_in_rows_out(trained, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text('id,text\n1,"good, really"\n2,\n3,NaN\n4,bad\n')
    rows = output(capsys, trained, path)
    assert rows[0] == ["row", "predicted", "p_positive", "warning"]
    assert [row[0] for row in rows[1:]] == ["2", "3", "4", "5"]
    assert [row[3] for row in rows[1:]] == ["", "no text", "no text", ""]
    assert all(0 < float(row[2]) < 1 for row in rows[1:])


def test_text_files_and_stdin_give_a_row_per_line(trained, tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffgood\n\nbad\u2028or not\x0c\n")
    rows = output(capsys, trained, path)
    assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
    assert [row[3] for row in rows[1:]] == ["", "no text", ""]
    stdin = SimpleNamespace(buffer=io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert output(capsys, trained, "-") == rows


def test_bad_input_is_named(trained, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"latin.txt, line 2: byte 0xe9 is not UTF-8"):
        read_input(str(tmp_path / "latin.txt"), "text")
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"columns.csv needs one column 'text'.*'a', 'b'"):
        read_input(str(tmp_path / "columns.csv"), "text")
    with pytest.raises(InputError, match="cannot read --input="):
        read_input(str(tmp_path / "nothing.txt"), "text")


def test_each_verdict_is_one_line(trained, capsys):
    print_verdicts(trained, ["a good film", " "])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[0] in ("positive", "negative")
    assert lines[1].endswith("no text")
