"""Recipes, their validation, and a config's stored form."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from benchmarks import settings
from configs import bert, electra, lstm, ngrams
from sentiment_jax.config import stored
from sentiment_jax.config.recipes import describe_settings, override
from sentiment_jax.config.schema import MODELS, schema
from sentiment_jax.config.stored import flatten, make_frozen, run_name
from sentiment_jax.config.validation import NGRAM_VECTORS, validate
from sentiment_jax.data.table import FORMATS
from sentiment_jax.errors import InputError
from sentiment_jax.training.checks import resolve

ROOT = Path(__file__).parents[2]
RECIPES = [(of, variant) for of in (lstm, bert, electra, ngrams) for variant in ("", *of.VARIANTS)]


@pytest.mark.parametrize("name", ["model.pretrained", "model.dtype"])
def test_what_ngrams_have_no_use_for_is_refused(name):
    changes = {name: {"model.pretrained": "runs/a", "model.dtype": "bfloat16"}[name]}
    with pytest.raises(InputError, match=f"{name}.*: ngrams "):
        validate(override(ngrams.get_config(), changes))


@pytest.mark.parametrize(("module", "variant"), RECIPES)
def test_every_recipe_is_valid(module, variant):
    config = module.get_config(variant)
    if variant == "semi":
        config.model.pretrained = "runs/vectors"
    validate(config, pretraining=variant == "pretrain")
    with pytest.raises(InputError, match="unknown variant 'huge': one of"):
        module.get_config("huge")


@pytest.mark.parametrize(
    ("module", "variant"), [(lstm, "sample"), (bert, "tiny"), (electra, "tiny")]
)
def test_a_resolved_config_is_frozen_and_survives_json(module, variant):
    config = resolve(override(module.get_config(variant), {"seed": 7}))
    content = json.loads(json.dumps(stored.config_to_json(config)))
    again = make_frozen(content)
    assert again == config and run_name(again) == run_name(config)
    assert None not in flatten(config).values()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 8
    assert stored.replace_settings(config, {"data.max_length": 40}).data.max_length == 40
    for unknown in ({"data.batch": 1}, {"loss.entropy": 0.1}, {"model.hidden": 3}):
        with pytest.raises(InputError, match="^config: "):
            make_frozen(flatten(content) | unknown)


def test_a_run_keeps_the_name_that_it_had_at_revision_33efc1f():
    """A sweep finds its trials by their names."""
    config = resolve(override(lstm.get_config("sample"), {"seed": 7}))
    assert run_name(config) == "lstm-adam-16-0.003-seed7-dd2644e1"
    assert run_name(resolve(bert.get_config("tiny"))) == "bert-adamw-16-0.001-seed0-f9c98dc8"
    assert run_name(stored.replace_settings(config, {"select_by": "loss"})) != run_name(config)


def test_the_settings_of_the_study():
    for module, name, epochs in (
        (lstm, "lstm-adam-256-0.0001-seed0", 20),
        (bert, "bert-adamw-16-3e-05-seed0", 5),
        (electra, "electra-adamw-32-3e-05-seed0", 5),
    ):
        config = module.get_config()
        assert run_name(config).startswith(f"{name}-")
        assert config.epochs == epochs


def test_validate_lists_all_problems_at_once():
    problems = {
        "batch_size": (0, "batch_size=0 must be >= 1"),
        "epochs": (0, "epochs=0 must be >= 1"),
        "model.output_dropout": (1.0, "model.output_dropout=1.0 must be >= 0 and < 1"),
        "model.pooling": ("first", "model.pooling='first' is unknown, choose last, mean, max"),
        "optimizer.name": ("adagrad", "optimizer.name='adagrad' is unknown, choose sgd, rmsprop"),
        "optimizer.schedule": ("cosine", "optimizer.schedule='cosine' is unknown, choose constant"),
        "optimizer.learning_rate": (float("nan"), "optimizer.learning_rate=nan"),
        "optimizer.warmup_fraction": (1.5, "optimizer.warmup_fraction=1.5 must be >= 0 and <= 1"),
        "optimizer.layerwise_decay": (1.5, "layerwise_decay=1.5 must be >= 1e-06 and <= 1"),
        "data.source": ("csv", "data.source=csv needs --config.data.path"),
        "pretrain.mask_fraction": (0.3, "pretrain.mask_fraction is for --mode=pretrain: leave it"),
    }
    changes = {name: value for name, (value, _) in problems.items()}
    with pytest.raises(InputError) as error:
        validate(override(lstm.get_config(), changes))
    for _, problem in problems.values():
        assert problem in str(error.value)


VECTORS = {
    "optimizer.name": "adam",
    "optimizer.momentum": 0.1,
    "optimizer.weight_decay": 0.1,
    "optimizer.clip_norm": 1.0,
    "optimizer.layerwise_decay": 0.5,
    "optimizer.frozen": "embeddings",
    "gradient_accumulation": 2,
    "model.dtype": "bfloat16",
}
RTD = {"pretrain.objective": "replaced_token_detection"}
LEFT_OUT = {"data.teacher": "runs/a", "pretrain.unlabeled": False}
TRAIN = [
    ({"pretrain.text": "own.txt"}, "pretrain.text is for --mode=pretrain"),
    (RTD, "pretrain.objective is for --mode=pretrain"),
    ({"data.max_length": 129}, "data.max_length=129 exceeds the model's 128 pos"),
    *[
        ({"data.path": f"my{ending}"}, f"my{ending} is a table: set --config.data.source=csv")
        for ending in (*FORMATS, ".CSV")
    ],
    ({"data.ngrams": 2}, "data.ngrams=2 wants model.name=lstm, not bert"),
    ({"data.teacher": "runs/a,,runs/b"}, "data.teacher='runs/a,,runs/b' names no run"),
    ({"optimizer.learning_rate": float("inf")}, "optimizer.learning_rate=inf must be"),
    (LEFT_OUT, "pretrain.unlabeled=False leaves data.teacher out: set only one"),
]
CSV = {"data.source": "csv", "data.path": "my.csv"}
POSITIVE = CSV | {"data.positive_labels": "4,5"}
LABELS = [
    (POSITIVE, "go together"),
    (POSITIVE | {"data.negative_labels": "1", "data.labels": "1,5"}, "go together"),
    (POSITIVE | {"data.negative_labels": "1, 4"}, "'4' cannot be both positive and"),
    (CSV | {"data.labels": "one"}, "data.labels='one': 2 to 100 expected"),
    (CSV | {"data.labels": ",".join(map(str, range(101)))}, "2 to 100 expected"),
    ({"data.labels": "a,b"}, "data.source=sample has labels of its own"),
]
PRETRAIN = [
    ({"data.teacher": "runs/a"}, "has no use for data.teacher: leave it out"),
    ({"class_weights": "balanced"}, "has no use for class_weights: leave it out"),
    (RTD, "bert learns masked_language_modeling"),
    ({"data.validation_fraction": 0.0}, "leaves --mode=pretrain no text to test on"),
]
PRETRAIN_LSTM = [
    ({"pretrain.mask_fraction": 0.3}, "has no use for pretrain.mask_fraction"),
    *[
        ({name: VECTORS[name]}, f"takes plain steps: .* set {name}={plain}$")
        for name, plain in NGRAM_VECTORS.items()
    ],
]


@pytest.mark.parametrize(
    ("module", "variant", "pretraining", "changes", "problem"),
    [
        *[(bert, "tiny", False, *case) for case in TRAIN],
        *[(bert, "tiny", True, *case) for case in PRETRAIN],
        *[(lstm, "sample", False, *case) for case in LABELS],
        *[(lstm, "pretrain", True, *case) for case in PRETRAIN_LSTM],
    ],
)
def test_what_contradicts_itself_or_would_do_nothing_is_refused(
    module, variant, pretraining, changes, problem
):
    config = module.get_config(variant)
    validate(config, pretraining=pretraining)
    with pytest.raises(InputError, match=f"^config: [^;]*{problem}"):
        validate(override(config, changes), pretraining=pretraining)


def test_a_config_of_another_architecture_or_with_a_setting_missing_is_refused():
    """Row 50: a config file of another making."""
    with pytest.raises(InputError, match="use --config=configs/lstm.py"):
        validate(override(bert.get_config("tiny"), {"model.name": "lstm"}))
    short = ConfigDict(lstm.get_config().to_dict())
    del short.data["max_length"]
    with pytest.raises(InputError, match="model.name=lstm and data.max_length: use --config="):
        validate(short)


def test_differences_are_field_by_field_and_names_differ_with_any_field():
    old = lstm.get_config()
    new = override(old, {"batch_size": 512, "optimizer.learning_rate": 5e-5})
    assert stored.config_difference(old, new) == [
        "batch_size: 256 -> 512",
        "optimizer.learning_rate: 0.0001 -> 5e-05",
    ]
    assert run_name(override(old, {"data.max_length": 300})) != run_name(old)


def test_every_setting_is_read_somewhere_and_has_a_meaning_and_an_allowed_default():
    """A setting that nothing reads is a lie: the package must use its name outside the schema."""
    read = set()
    for path in (ROOT / "sentiment_jax").rglob("*.py"):
        if path.name != "schema.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    read.add(node.attr)
    for model in MODELS:
        for name, rule in schema(model).items():
            assert name.rpartition(".")[2] in read, name
            assert rule.meaning, name
            assert not rule.problem(name, rule.default), name


def test_the_settings_of_a_config_are_listed_with_what_is_allowed():
    lines = describe_settings(lstm.get_config()).splitlines()
    assert sum("--config." in line for line in lines) == len(flatten(lstm.get_config()))
    groups = [line for line in lines if line[:1].isalpha()]
    assert groups == ["run", "data", "model", "optimizer", "pretrain"]
    (line,) = [line for line in lines if "--config.optimizer.name" in line]
    assert "adam " in line and "optimizer (sgd | rmsprop | adam | adamw)" in line


def test_the_page_of_settings_says_what_the_schema_and_help_say():
    """`python -m benchmarks.settings` writes it again."""
    page = settings.PAGE.read_text(encoding="utf-8")
    assert page == settings.page()
    for model in MODELS:
        for name, rule in schema(model).items():
            (line,) = [
                line
                for line in page.splitlines()
                if line.startswith(f"| `{name}` |") and line.endswith(f"{rule.meaning} |")
            ]
            assert f" {model}" in line or all(name in schema(other) for other in MODELS), line
