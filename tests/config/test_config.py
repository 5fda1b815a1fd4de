"""Recipes, their validation, and a config's stored form."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from reviews import refusal, refuses

from benchmarks import settings
from configs import bert, electra, linear, lstm
from sentiment_jax.config import stored
from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import MODELS, EncoderConfig, LstmConfig, schema
from sentiment_jax.config.stored import flatten, make_frozen, run_name
from sentiment_jax.config.validation import NGRAM_VECTORS, validate
from sentiment_jax.errors import InputError
from sentiment_jax.training.checks import resolve

ROOT = Path(__file__).parents[2]
RECIPES = [(of, variant) for of in (lstm, bert, electra, linear) for variant in ("", *of.VARIANTS)]


@pytest.mark.parametrize(("module", "variant"), RECIPES)
def test_every_recipe_is_valid(module, variant):
    config = module.get_config(variant)
    if variant == "semi":
        config.model.pretrained = "runs/vectors"
    if config.data.source == "csv":
        config.data.path = "my.csv"
    validate(config, pretraining=variant == "pretrain")
    refuses("unknown variant 'huge': one of", module.get_config, "huge")


@pytest.mark.parametrize(("of", "variant"), [(lstm, "sample"), (bert, "tiny"), (electra, "tiny")])
def test_a_resolved_config_is_frozen_and_survives_json(of, variant):
    config = resolve(override(of.get_config(variant), {"seed": 7}))
    content = json.loads(json.dumps(stored.config_to_json(config)))
    again = make_frozen(content)
    assert again == config and run_name(again) == run_name(config)
    assert None not in flatten(config).values()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 8
    assert stored.replace_settings(config, {"data.max_length": 40}).data.max_length == 40
    for unknown in ({"data.batch": 1}, {"loss.entropy": 0.1}, {"model.hidden": 3}):
        refuses("^config: ", make_frozen, flatten(content) | unknown)


def test_each_setting_is_part_of_the_name():
    config = resolve(lstm.get_config("sample"))
    for other in ({"select_by": "loss"}, {"data.max_length": 300}):
        assert run_name(stored.replace_settings(config, other)) != run_name(config)


def test_a_page_calls_a_model_by_the_weights_that_it_starts_from():
    assert LstmConfig().title == "LSTM"
    for pretrained in ("sentence-transformers/all-MiniLM-L6-v2", "/runs/all-MiniLM-L6-v2/"):
        assert EncoderConfig(pretrained=pretrained).title == "all-MiniLM-L6-v2 (BERT)"


def test_the_settings_of_the_study():
    for config, name, epochs in (
        (lstm.get_config(), "lstm-adam-256-0.0001-seed0-", 20),
        (bert.get_config(), "bert-adamw-16-3e-05-seed0-", 5),
        (electra.get_config(), "electra-adamw-32-3e-05-seed0-", 5),
    ):
        assert run_name(config).startswith(name)
        assert config.epochs == epochs


def test_validate_lists_all_problems_at_once():
    problems = {
        "batch_size": (0, "batch_size=0 must be >= 1"),
        "model.output_dropout": (1.0, "model.output_dropout=1.0 must be >= 0 and < 1"),
        "model.pooling": ("first", "model.pooling='first' is unknown, choose last, mean, max"),
        "optimizer.name": ("adagrad", "optimizer.name='adagrad' is unknown, choose sgd, rmsprop"),
        "optimizer.learning_rate": (float("nan"), "optimizer.learning_rate=nan"),
        "optimizer.warmup_fraction": (1.5, "optimizer.warmup_fraction=1.5 must be >= 0 and <= 1"),
        "data.source": ("csv", "data.source=csv needs --config.data.path"),
        "pretrain.mask_fraction": (0.3, "pretrain.mask_fraction does nothing in --mode=train"),
    }
    config = override(lstm.get_config(), {name: value for name, (value, _) in problems.items()})
    message = refusal("config: ", validate, config)
    assert [problem for _, problem in problems.values() if problem not in message] == []


NAMED = {"data.path": "my.csv"}
CSV = {"data.source": "csv", **NAMED}
POSITIVE = CSV | {"data.positive_labels": "4,5"}
RTD = {"pretrain.objective": "replaced_token_detection"}
ADAM = {"name": "adam", "momentum": 0.1, "weight_decay": 0.1, "clip_norm": 1.0}
ADAM |= {"layerwise_decay": 0.5, "frozen": "embeddings"}
NO_PLAIN_STEPS = {"optimizer": ADAM, "gradient_accumulation": 2, "model.dtype": "bfloat16"}
PLAIN = [f"takes plain steps: .* set .*{name}={plain}" for name, plain in NGRAM_VECTORS.items()]
REFUSED = {  # by recipe, and whether it is for --mode=pretrain
    (bert, "tiny", False): [
        ({"pretrain.text": "own.txt"}, "pretrain.text and pretrain.unlabeled do nothing without"),
        (RTD, "pretrain.objective does nothing in --mode=train"),
        ({"data.max_length": 129}, "data.max_length=129 exceeds the model's 128 pos"),
        ({"data.ngrams": 2}, "data.ngrams=2 wants model.name=lstm or average, not bert"),
        ({"data.teacher": "runs/a,,runs/b"}, "data.teacher='runs/a,,runs/b' names no run"),
        ({"data.teacher": "runs/a", "data.folds": 2}, "takes no data.teacher: set data.folds=0"),
        ({"optimizer.learning_rate": float("inf")}, "optimizer.learning_rate=inf must be"),
        ({"data.teacher": "a", "pretrain.unlabeled": False}, "leaves data.teacher out: set only"),
        ({"contrastive": 1.0}, "contrastive=1.0 needs an encoder with model.pooling=first, mean"),
    ],
    (bert, "tiny", True): [
        ({"data.teacher": "runs/a"}, "data.teacher does nothing in --mode=pretrain: leave it out"),
        ({"class_weights": "balanced"}, "class_weights does nothing in --mode=pretrain: leave it"),
        ({"select_by": "loss"}, "select_by does nothing in --mode=pretrain: leave it out"),
        (RTD, "bert learns masked_language_modeling"),
        ({"data.validation_fraction": 0.0}, "leaves --mode=pretrain no text to test on"),
    ],
    (lstm, "sample", False): [
        ({"contrastive": 1.0}, "contrastive=1.0 needs an encoder"),
        (POSITIVE, "go together"),
        (POSITIVE | {"data.negative_labels": "1", "data.labels": "1,5"}, "go together"),
        (POSITIVE | {"data.negative_labels": "1, 4"}, "'4' cannot be both positive and"),
        (CSV | {"data.labels": "one"}, "data.labels names 1: 2 to 1,000 expected"),
        (CSV | {"data.labels": ",".join(map(str, range(1001)))}, "data.labels names 1001: 2 to"),
        ({"data.labels": "a,b"}, "data.source=sample has labels of its own"),
    ],
    (lstm, "pretrain", True): [
        ({"pretrain.mask_fraction": 0.3}, "pretrain.mask_fraction does nothing: no tokens are"),
        *((NO_PLAIN_STEPS, problem) for problem in PLAIN),
    ],
    (linear, "", False): [
        ({"model.pretrained": "runs/a"}, "model.pretrained: linear starts from no weights"),
        ({"model.dtype": "bfloat16"}, "model.dtype=bfloat16: linear computes in float32"),
        ({"optimizer.name": "adam"}, "optimizer.name=adam: linear and liblinear go together"),
        ({"data.teacher": "runs/a"}, "optimizer.name=liblinear fits classes, not a teacher's"),
        (
            {"select_by": "last", "early_stopping_patience": 1},
            "early_stopping_patience waits for a better epoch: not with",
        ),
    ],
}


def test_what_contradicts_itself_or_would_do_nothing_is_refused():
    for (module, variant, pretraining), cases in REFUSED.items():
        config = override(module.get_config(variant), NAMED if module is linear else {})
        validate(config, pretraining=pretraining)
        for changes, problem in cases:
            with pytest.raises(InputError, match=f"^config: [^;]*{problem}"):
                validate(override(config, changes), pretraining=pretraining)


def test_a_config_of_another_architecture_or_with_a_setting_missing_is_refused():
    """A config file need not come from make_config()."""
    with pytest.raises(InputError, match="use --config=configs/lstm.py"):
        validate(override(bert.get_config("tiny"), {"model.name": "lstm"}))
    short = ConfigDict(lstm.get_config().to_dict())
    del short.data["max_length"]
    refuses("model.name=lstm and data.max_length: use --config=", validate, short)


def test_every_setting_is_read_somewhere_and_has_a_meaning_and_an_allowed_default():
    """A setting that nothing reads is a lie: the package must use its name, or a property does."""
    own = ROOT / "sentiment_jax/config/schema.py"
    paths = {*(ROOT / "sentiment_jax").rglob("*.py")} - {own}
    trees = [ast.parse(path.read_text()) for path in paths]
    functions = (n for n in ast.walk(ast.parse(own.read_text())) if isinstance(n, ast.FunctionDef))
    trees += [function for function in functions if function.decorator_list]
    nodes = (node for tree in trees for node in ast.walk(tree))
    read = {getattr(n, "attr", "") for n in nodes if isinstance(getattr(n, "ctx", 0), ast.Load)}
    for model in MODELS:
        for name, rule in schema(model).items():
            assert name.rpartition(".")[2] in read, name
            assert rule.meaning, name
            assert not rule.problem(name, rule.default), name


def test_the_page_of_settings_says_what_the_schema_and_help_say():
    """`python -m benchmarks.settings` writes it again."""
    page = settings.PAGE.read_text(encoding="utf-8")
    assert page == settings.page()
    rows = [line.split(" | ") for line in page.splitlines()]
    for model in MODELS:
        for name, rule in schema(model).items():
            named = [cells[-1] for cells in rows if cells[0] == f"| `{name}`"]
            (cell,) = [cell for cell in named if cell.endswith(f"{rule.meaning} |")]
            assert model in cell or all(name in schema(other) for other in MODELS), name
