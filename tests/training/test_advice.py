"""Each rule of the advice speaks on a real run that needs it, and is silent on one that does not.

The figures are those of runs on real sentences: news, products and tweets of Hutto & Gilbert
(2014), seed 0.
"""

import dataclasses

import pytest

from configs import lstm, ngrams
from sentiment_jax.config.recipes import override
from sentiment_jax.training.advice import advise
from sentiment_jax.training.checks import resolve

RULES = {  # what each says
    "baseline": "the linear baseline is no worse on validation",
    "few steps": "optimizer steps are few",
    "rising loss": "the validation loss rose from",
    "imbalance": "are found: class_weights=balanced",
    "over-confidence": "the probabilities are over-confident",
    "unknown words": "of the words in validation are unknown",
}


@dataclasses.dataclass
class Run:
    """What a run's files say, and which rules must speak."""

    recipe: str
    losses: tuple[float, ...]  # of validation, by epoch
    best_epoch: int
    accuracy: float
    steps: int
    train_accuracy: float
    temperature: float
    unknown: float
    linear: float
    majority: float
    rarest: tuple[int, float]  # examples, recall
    speak: set[str]
    changes: dict = dataclasses.field(default_factory=dict)


NEWS = (0.632, 0.586, 0.964, 1.564, 2.447, 2.018, 2.854, 2.65, 3.371, 3.311, 3.039, 3.973, 3.082)
PRODUCTS = (0.541, 0.56, 0.817, 1.005, 1.18, 1.495, 1.684, 2.181)
TWEETS = (0.712, 0.638, 0.612, 0.603, 0.596, 0.593, 0.589, 0.592, 0.591, 0.594)
BALANCED = (
    0.416,
    0.257,
    0.202,
    0.202,
    0.187,
    0.182,
    0.175,
    0.17,
    0.168,
    0.166,
    0.164,
    0.163,
    0.164,
)
LOSSES_95 = (0.188, 0.177, 0.17, 0.167, 0.168, 0.168, 0.171)
RUNS = {
    "an LSTM on news": Run(
        *("lstm:small", NEWS, 8, 0.6947, 1547, 0.991, 12.69, 0.18, 0.7179, 0.6, (190, 0.58)),
        {"baseline", "rising loss", "over-confidence", "unknown words"},
    ),
    "an LSTM on products": Run(
        *("lstm:small", PRODUCTS, 3, 0.7364, 960, 0.994, 3.35, 0.08, 0.7866, 0.586, (198, 0.7)),
        {"baseline", "rising loss", "over-confidence"},
    ),
    "the study's LSTM on products": Run(
        *("lstm", (0.689, 0.688, 0.686, 0.684), 4, 0.5858, 32, 0.586, 0.32, 0.15, 0.7866),
        *(0.586, (198, 0.0), {"baseline", "few steps", "unknown words"}, {"epochs": 4}),
    ),
    "n-grams on 200 products": Run(
        *("ngrams", (0.654, 0.628, 0.612, 0.598, 0.587, 0.576), 6, 0.625, 12, 0.938, 0.62, 0.24),
        *(0.75, 0.625, (6, 0.0), {"baseline", "few steps"}, {"epochs": 6, "batch_size": 128}),
    ),
    "n-grams on tweets of three classes": Run(
        *("ngrams", TWEETS, 7, 0.747, 1890, 1.0, 0.96, 0.08, 0.6964, 0.56, (61, 0.34), set()),
    ),
    "n-grams on tweets, 95:5, without class weights": Run(
        *("ngrams", LOSSES_95, 4, 0.9444, 777, 1.0, 1.11, 0.11, 0.9495, 0.949, (10, 0.0)),
        *({"imbalance"}, {"class_weights": "none"}),
    ),
    "n-grams on tweets, 95:5": Run(
        *("ngrams", BALANCED, 12, 0.9545, 1665, 1.0, 0.95, 0.11, 0.9495, 0.949, (10, 0.3), set()),
    ),
}


def spoken(run):
    """The rules that speak, and their sentences."""
    module = {"lstm": lstm, "ngrams": ngrams}[run.recipe.partition(":")[0]]
    recipe = module.get_config(run.recipe.partition(":")[2])
    config = resolve(override(recipe, {"data.source": "sample", **run.changes}))
    result = {
        "val": {"accuracy": run.accuracy, "loss": run.losses[run.best_epoch - 1]},
        "best_epoch": run.best_epoch,
        "stopped_early": len(run.losses) > run.best_epoch,
        "temperature": run.temperature,
        "linear_baseline": {"val": {"accuracy": run.linear}},
        "metrics": {
            "val": {
                "majority_baseline": run.majority,
                "classes": {
                    "rare": dict(zip(("examples", "recall"), run.rarest, strict=True)),
                    "common": {"examples": 1000, "recall": 1.0},
                },
            }
        },
    }
    records = [
        {"split": "train", "step": run.steps, "epoch": len(run.losses)}
        | {"accuracy": run.train_accuracy},
        *({"split": "val", "epoch": i, "loss": v} for i, v in enumerate(run.losses, start=1)),
    ]
    sentences = advise(config, result, records, run.unknown)
    return {rule: s for s in sentences for rule, words in RULES.items() if words in s}, sentences


@pytest.mark.parametrize("name", RUNS)
def test_the_rules_that_speak(name):
    rules, sentences = spoken(RUNS[name])
    assert set(rules) == RUNS[name].speak
    assert len(sentences) == len(rules)


def test_every_rule_speaks_somewhere_and_is_silent_somewhere():
    for rule in RULES:
        assert any(rule in run.speak for run in RUNS.values()), rule
        assert any(rule not in run.speak for run in RUNS.values()), rule


def test_sentences_name_the_figures_and_the_remedy():
    rules, _ = spoken(RUNS["an LSTM on news"])
    assert "(0.7179, this model 0.6947): try --config=configs/ngrams.py" in rules["baseline"]
    assert "0.5860 (epoch 2) to 2.6500 (epoch 8, the one chosen)" in rules["rising loss"]
    assert "by 12.69" in rules["over-confidence"]
    assert "18% of the words" in rules["unknown words"]
    assert "lower data.min_frequency (2)" in rules["unknown words"]
    rules, _ = spoken(RUNS["n-grams on 200 products"])
    assert rules["few steps"].startswith("12 optimizer steps are few: lower batch_size (128)")
    assert "configs/ngrams.py" not in rules["baseline"]
    rules, _ = spoken(RUNS["n-grams on tweets, 95:5, without class weights"])
    assert rules["imbalance"].startswith("of the 10 validation reviews of class 'rare', 0% are")
