"""predictions.csv: the contract of its columns and cells."""

import numpy as np

from sentiment_jax.config.schema import Config, DataConfig
from sentiment_jax.data.predictions import prediction_cells, prediction_columns, write_predictions
from sentiment_jax.data.texts import Texts
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory


def test_predictions_follow_the_contract(tmp_path):
    directory = RunDirectory(tmp_path)
    write_json(directory.env, {"predictions-val_sha256": "of another split's own file"})
    reviews = Texts.from_texts(["good", "bad"], [1, 0], ids=('a,"b"', "c"))
    probabilities = np.float32([[0.25, 0.75], [0.75, 0.25]])
    write_predictions(directory, "test", reviews, probabilities, Config())
    predictions = 'id,label,predicted,p_positive\n"a,""b""",1,1,0.750000\nc,0,0,0.250000\n'
    assert (tmp_path / "predictions.csv").read_text() == predictions
    assert read_json(directory.env)["predictions_order"] == reviews.texts_hash


def test_cells_of_classes_with_other_names():
    two = np.float32([[0.25, 0.75], [0.5, 0.5]])
    bad_good = Config(data=DataConfig(labels="bad,good"))
    assert prediction_columns(bad_good) == ["predicted", "p_positive"]
    assert prediction_cells(bad_good, two) == [["good", "0.750000"], ["bad", "0.500000"]]
    three = np.float32([[0.25, 0.25, 0.5], [0.5, 0.5, 0]])
    stars = Config(data=DataConfig(labels="-1,0,01"))
    assert prediction_columns(stars) == ["predicted", "p_-1", "p_0", "p_01"]
    assert prediction_cells(stars, three) == [
        ["01", "0.250000", "0.250000", "0.500000"],
        [-1, "0.500000", "0.500000", "0.000000"],
    ]
    rare = prediction_cells(stars, three, [0.1, 0.45, 0.45], at_least=0.4)
    assert [cells[0] for cells in rare] == ["", -1]  # -1 is predicted, with p = .25 and .5
