import ast
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import bert, electra, lstm
from sentiment_jax.config.recipes import describe_settings, override
from sentiment_jax.config.schema import MODELS, schema
from sentiment_jax.config.stored import (
    config_difference,
    config_from_json,
    config_to_json,
    flatten,
    run_name,
)
from sentiment_jax.config.validation import validate
from sentiment_jax.errors import InputError
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.checks import resolve

ROOT = Path(__file__).parents[2]
VARIANTS = [
    (lstm, ""),
    (lstm, "small"),
    (lstm, "sample"),
    *[(module, variant) for module in (bert, electra) for variant in ("", "tiny", "long")],
]


@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_every_config_is_valid_and_survives_json(module, variant, tmp_path):
    config = module.get_config(variant)
    validate(config)
    RunDirectory(tmp_path).write_config(config)
    again = RunDirectory(tmp_path).read_config()
    assert flatten(again) == flatten(config)
    assert run_name(again) == run_name(config)


@pytest.mark.parametrize("module", [lstm, bert, electra])
def test_unknown_variants_list_the_known_ones(module):
    with pytest.raises(InputError, match="unknown variant 'huge': one of"):
        module.get_config("huge")


def test_the_study_settings():
    def settings(config):
        optimizer = config.optimizer
        return (optimizer.name, config.batch_size, optimizer.learning_rate, config.epochs)

    assert settings(lstm.get_config()) == ("adam", 256, 1e-4, 20)
    assert settings(bert.get_config()) == ("adamw", 16, 3e-5, 5)
    assert settings(electra.get_config()) == ("adamw", 32, 3e-5, 5)
    for module in (bert, electra):
        config = module.get_config()
        assert (config.data.max_length, config.optimizer.warmup_fraction) == (128, 0.1)
        assert config.optimizer.weight_decay == 0.01


def test_validate_lists_all_problems_at_once():
    config = lstm.get_config()
    config.batch_size = 0
    config.epochs = 0
    config.model.output_dropout = 1.0
    config.model.pooling = "first"
    config.optimizer.name = "adagrad"
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = float("nan")
    config.optimizer.warmup_fraction = 1.5
    config.optimizer.layerwise_decay = 1.5
    config.data.source = "csv"
    config.data.unlabeled = True
    config.pretrain.text, config.pretrain.unlabeled = "own.txt", False
    with pytest.raises(InputError) as error:
        validate(config)
    for part in (
        "batch_size=0 must be >= 1",
        "epochs=0 must be >= 1",
        "model.output_dropout=1.0 must be >= 0 and < 1",
        "model.pooling='first' is unknown, choose last, mean, max, mean_max",
        "optimizer.name='adagrad' is unknown, choose sgd, rmsprop, adam, adamw",
        "optimizer.schedule='cosine' is unknown, choose constant, linear",
        "optimizer.learning_rate=nan",
        "optimizer.warmup_fraction=1.5 must be >= 0 and <= 1",
        "optimizer.layerwise_decay=1.5 must be >= 1e-06 and <= 1",
        "data.source=csv needs --config.data.path",
        "pretrain.unlabeled=False leaves pretrain.text out",
        "data.unlabeled=True needs data.teacher, loss.virtual_adversarial or loss.entropy",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("pretraining", "changes", "problem"),
    [
        (
            False,
            {"gradient_accumulation": 2, "loss.entropy": 0.1, "data.unlabeled": True},
            "without data.teacher takes means over whole batches: set gradient_accumulation=1",
        ),
        (False, {"data.teacher": "runs/a"}, "judges reviews without labels: set data.unlabeled="),
        (True, {"data.teacher": "runs/a"}, "--mode=pretrain has no use for data.teacher: leave it"),
        (True, {"data.unlabeled": True}, "--mode=pretrain has no use for data.unlabeled: leave it"),
        (
            True,
            {"pretrain.objective": "replaced_token_detection"},
            "pretrain.objective=replaced_token_detection: bert learns masked_language_modeling",
        ),
        (True, {"data.validation_fraction": 0.0}, "leaves --mode=pretrain no text to test on"),
    ],
)
def test_what_contradicts_itself_or_would_do_nothing_is_refused(pretraining, changes, problem):
    config = bert.get_config("tiny")
    validate(config, pretraining=pretraining)
    with pytest.raises(InputError, match=f"^config: [^;]*{problem}[^;]*$"):
        validate(override(config, changes), pretraining=pretraining)


@pytest.mark.parametrize("rate", [-1e-3, float("inf")])
def test_bad_learning_rates(rate):
    config = lstm.get_config()
    config.optimizer.learning_rate = rate
    with pytest.raises(InputError, match="optimizer.learning_rate"):
        validate(config)


@pytest.mark.parametrize("teacher", [",", "runs/a,", "runs/a,,runs/b"])
def test_teachers_without_a_name(teacher):
    config = lstm.get_config()
    config.data.unlabeled, config.data.teacher = True, teacher
    with pytest.raises(InputError, match=r"data\.teacher=.* names no run"):
        validate(config)


def test_reviews_without_labels_are_asked_for_or_left_out():
    config = lstm.get_config()
    config.data.unlabeled, config.loss.entropy, config.pretrain.unlabeled = True, 1.0, False
    with pytest.raises(InputError, match="unlabeled=False leaves data.unlabeled out: set only one"):
        validate(config)


def test_max_length_beyond_the_positions():
    config = bert.get_config("tiny")
    config.data.max_length = 129
    with pytest.raises(InputError, match="data.max_length=129 exceeds the model's 128 positions"):
        validate(config)


def test_runs_of_words_are_an_lstms():
    config = bert.get_config("tiny")
    config.data.ngrams = 2
    with pytest.raises(InputError, match="data.ngrams=2 wants model.name=lstm, not bert"):
        validate(config)


def test_difference_is_field_by_field():
    old, new = lstm.get_config(), lstm.get_config()
    new.batch_size, new.optimizer.learning_rate = 512, 5e-5
    assert config_difference(old, new) == [
        "batch_size: 256 -> 512",
        "optimizer.learning_rate: 0.0001 -> 5e-05",
    ]


def test_run_names_are_readable_and_differ_with_any_field():
    config = lstm.get_config()
    name = run_name(config)
    assert name.startswith("lstm-adam-256-0.0001-seed0-")
    config.data.max_length = 300
    assert run_name(config) != name


def test_settings_that_came_later_change_nothing_of_earlier_runs(tmp_path):
    """Their names, which find a sweep's runs again, and their config, which must not differ."""
    config = lstm.get_config("sample")
    assert run_name(config) == "lstm-adam-16-0.003-seed0-e2ac789b"  # of b497a15
    before = config_to_json(config)
    assert len(before) < len(config)
    RunDirectory(tmp_path).write_config(config)
    assert not config_difference(RunDirectory(tmp_path).read_config(), config)
    config.gradient_accumulation = 2
    assert not run_name(config).endswith("e2ac789b")


def test_resolve_copies():
    config = bert.get_config("tiny")
    before = json.dumps(config.to_dict())
    resolved = resolve(config)
    resolved.batch_size = 3
    assert json.dumps(config.to_dict()) == before
    assert isinstance(resolved, ConfigDict)


def test_every_setting_is_read_somewhere():
    """A setting that nothing reads is a lie: the package must use its name outside the schema."""
    read = set()
    for path in (ROOT / "sentiment_jax").rglob("*.py"):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    unread = {name for model in MODELS for name in schema(model) if name.split(".")[-1] not in read}
    assert unread == {"model.hidden_act"}  # checked only: there is one activation


def test_every_setting_has_a_meaning_and_an_allowed_default():
    for model in MODELS:
        for name, rule in schema(model).items():
            assert rule.meaning, name
            assert not rule.problem(name, rule.default), name


def test_the_settings_of_a_config_are_listed_with_what_is_allowed():
    listed = describe_settings(lstm.get_config())
    lines = listed.splitlines()
    assert listed.count("--config.") == len(flatten(lstm.get_config()))
    assert [line for line in lines if line[:1].isalpha()] == [
        *("run", "data", "model", "optimizer", "loss", "pretrain"),
    ]
    (line,) = [line for line in listed.splitlines() if "--config.optimizer.name" in line]
    assert "adam " in line and "optimizer (sgd | rmsprop | adam | adamw)" in line


def test_later_settings_leave_no_trace_at_their_defaults():
    """config.json and the names of runs are what they were before these settings came."""
    config = lstm.get_config()
    later = {"class_weights": "balanced", "data.labels": "bad,good"}
    later |= {"data.positive_labels": "4,5", "data.negative_labels": "1,2"}
    before, name = config_to_json(config), run_name(config)
    assert not {*later} & {*flatten(before)}
    assert name == "lstm-adam-256-0.0001-seed0-ce08b286"
    assert flatten(config_from_json(before)) == flatten(config)
    for field, value in later.items():
        changed = ConfigDict(config.to_dict())
        changed.update_from_flattened_dict({field: value})
        assert flatten(config_from_json(config_to_json(changed))) == flatten(changed)
        assert flatten(config_to_json(changed))[field] == value and run_name(changed) != name


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"positive_labels": "4,5"}, "go together"),
        ({"positive_labels": "5", "negative_labels": "1", "labels": "1,5"}, "go together"),
        ({"positive_labels": "4,5", "negative_labels": "1, 4"}, "'4' cannot be both positive and"),
        ({"labels": "one"}, "data.labels='one': 2 to 100 expected"),
        ({"labels": ",".join(map(str, range(101)))}, "2 to 100 expected"),
        ({"labels": "a,b", "source": "sample"}, "data.source=sample has labels of its own"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(changes, problem):
    config = lstm.get_config()
    config.data.update({"source": "csv", "path": "my.csv", **changes})
    with pytest.raises(InputError, match=problem):
        validate(config)


def test_another_models_name_is_refused():
    config = bert.get_config("tiny")
    config.model.name = "lstm"
    with pytest.raises(InputError, match="use --config=configs/lstm.py"):
        validate(config)


def test_a_config_without_all_settings_is_refused():
    """Row 50: a config file of another making."""
    config = ConfigDict(lstm.get_config().to_dict())
    del config.data["max_length"]
    with pytest.raises(InputError, match="model.name=lstm and data.max_length: use --config="):
        validate(config)
