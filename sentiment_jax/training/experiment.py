"""From a resolved config to what every mode needs: reviews, tokenizer, model, parameters."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Shaped
from ml_collections import ConfigDict

from sentiment_jax.config import (
    CLASSES,
    EXAMPLE_TEXTS,
    OBJECTIVES,
    DataConfig,
    OptimizerConfig,
    class_names,
    flatten,
    join_names,
    schema,
    split_names,
)
from sentiment_jax.data import batches, tokenization
from sentiment_jax.data.corpus import Corpus, load_corpus
from sentiment_jax.data.encoding import (
    Encoded,
    check_encoded,
    concatenate,
    encode,
    encode_corpus,
)
from sentiment_jax.data.imdb_tfds import is_prepared
from sentiment_jax.data.reviews import Reviews, stratified_sample
from sentiment_jax.data.unlabeled import load_text, texts_hash, unlabeled_reviews
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.huggingface import hub, weights
from sentiment_jax.models import classifiers, layers
from sentiment_jax.runtime import devices, terminal
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.checkpoints import Checkpoints, entries
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import PLAN_FILE, find_run

READ_ATTEMPTS = 20  # at a checkpoint, beside a training that replaces it
Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What judging a text takes besides parameters."""

    config: ConfigDict
    tokenizer: Any
    model: nn.Module
    mesh: Mesh

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes' names in the order of the logits."""
        return class_names(self.config)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Return the padded lengths, the last of them max_length."""
        settings = self.config.data
        return batches.effective_buckets(settings.length_buckets, settings.max_length)

    def encode(self, reviews: Reviews) -> Encoded:
        """Turn reviews into token ids, cut as in training."""
        return encode(
            self.tokenizer, reviews, self.config.data.max_length, self.config.data.truncation
        )


@dataclasses.dataclass(frozen=True)
class Experiment(Classifier):
    """A config made concrete: a classifier and the reviews that it is trained and judged on."""

    encoded: dict[str, Encoded]
    words: dict[str, Any]  # of every whole review, split by split: int32 [reviews]
    statistics: dict[str, Any]
    examples: tuple[str, ...]  # to judge after training

    @property
    def optimizer(self) -> OptimizerConfig:
        """Return the config's optimiser."""
        return OptimizerConfig(**self.config.optimizer.to_dict())


@dataclasses.dataclass(frozen=True)
class TrainedModel(Classifier):
    """The best checkpoint of a run directory."""

    params: Any
    step: int
    temperature: float = 1.0  # of its probabilities in predict.py and evaluate.py
    others: tuple["TrainedModel", ...] = ()  # the mean of their probabilities and its own counts


def pretrained_run(pretrained: str) -> Path | None:
    """Return the run that model.pretrained names, itself or as a sweep's winner, if it does."""
    if not pretrained:
        return None
    path = find_run(Path(pretrained).expanduser())
    return path if RunDirectory(path).env.is_file() else None


def teachers(config: ConfigDict) -> list[Path]:
    """Return the runs that data.teacher names, each itself or as a sweep's winner."""
    return [find_run(Path(name).expanduser()) for name in split_names(config.data.teacher)]


def _check_teacher(teacher: Path) -> None:
    """Raise InputError unless a run is finished and judges reviews."""
    directory = RunDirectory(teacher)
    if not directory.config.is_file():
        raise InputError(f"data.teacher={teacher} is no run directory: name a finished run's")
    if directory.outcome()[0] != "finished":
        raise InputError(f"data.teacher={teacher} is not finished: let its training end")
    if directory.read_config().pretrain.objective:
        raise InputError(f"data.teacher={teacher} is a pre-training, which judges no review")


def source_runs(config: ConfigDict, taught: bool = False) -> Iterator[Path]:
    """Yield the run that a config starts from, the run that this started from, ...

    If `taught`, also the teachers of each of them.
    """
    pending: list[ConfigDict] = [config]
    seen: set[Path] = set()
    while pending:
        config = pending.pop(0)
        start = pretrained_run(config.model.pretrained)
        runs = [start] if start else []
        for run in (*runs, *(teachers(config) if taught else ())):
            if run not in seen:
                seen.add(run)
                yield run
                if RunDirectory(run).config.is_file():
                    pending.append(RunDirectory(run).read_config())


def resolve(config: ConfigDict) -> ConfigDict:
    """Return a copy that rebuilds the model without the folder of the pretrained weights."""
    resolved = ConfigDict(config.to_dict())
    for teacher in teachers(config):
        _check_teacher(teacher)
    model, folder, sizes = resolved.model, None, None
    if run := pretrained_run(model.pretrained):
        folder, source = run, _read_source(run, config)
        if model.name != "lstm":
            tokenizer = RunDirectory(run).load_tokenizer()
            sizes = make_classifier(source, tokenizer).model.config
    elif model.pretrained and model.name == "lstm":
        raise InputError(f"model.pretrained={model.pretrained} is no run: an LSTM starts from one")
    elif model.pretrained:
        folder, model.revision = hub.find_pretrained(model.pretrained, model.revision)
    if model.name != "lstm":
        resolved.model = ConfigDict(weights.resolve_encoder(model.to_dict(), folder, sizes))
    return resolved


def _read_source(run: Path, config: ConfigDict) -> ConfigDict:
    """Read the config of the run that a config starts from; InputError: it is another model."""
    directory = RunDirectory(run)
    directory.check_found()
    source = directory.read_config()
    if source.model.name != config.model.name:
        kinds = f"{source.model.name}, the config says model.name={config.model.name}"
        raise InputError(f"model.pretrained={run} is a run of {kinds}")
    return source


def check_apart(config: ConfigDict, workdir: Path) -> None:
    """Raise InputError if a run would be written over what it learns from, or into a sweep."""
    read = teachers(config)
    if config.model.pretrained:
        read.append(find_run(Path(config.model.pretrained).expanduser()))
    if workdir.resolve() in [path.resolve() for path in read]:
        raise InputError(f"the config learns from {workdir}, its own --workdir: choose another one")
    if (workdir / PLAN_FILE).is_file() and not RunDirectory(workdir).config.exists():
        raise InputError(f"{workdir} holds a sweep: choose another --workdir for a run")


def check_start(config: ConfigDict) -> None:
    """Raise InputError for what a run that begins would do in vain, or fail at minutes later.

    RunError: the run that it starts from, or a teacher, is damaged.
    """
    check_settings(config)
    check_sources(config)


def check_sources(config: ConfigDict) -> None:
    """Raise InputError, or RunError, unless the runs that a config learns from can be read."""
    start = pretrained_run(config.model.pretrained)
    for run in (*([start] if start else []), *teachers(config)):
        _beside_training(RunDirectory(run), _find_best)


def check_settings(config: ConfigDict) -> None:
    """Raise InputError for settings that don't go together, or with the run it starts from."""
    values, rules = flatten(config), schema(config.model.name)
    if run := pretrained_run(config.model.pretrained):
        source = RunDirectory(run).read_config()
        check_objective(run, source)
        was = flatten(source)
        for name in ("model.embedding_size", "data.ngrams") if config.model.name == "lstm" else ():
            if was[name] != values[name]:
                which = f"{name}={was[name]}, the config {values[name]}"
                raise InputError(f"model.pretrained={run} has {which}")
    if values["optimizer.frozen"] != "none" and not values["model.pretrained"]:
        raise InputError("optimizer.frozen keeps random embeddings: set model.pretrained")
    if not config.pretrain.objective:
        unread = ["pretrain.mask_fraction"]
        if not config.data.unlabeled:
            unread += ["pretrain.text", "pretrain.unlabeled"]
        for name in unread:
            if values[name] != rules[name].default:
                raise InputError(f"{name} is for --mode=pretrain: leave it out")


def check_objective(run: Path, config: ConfigDict) -> None:
    """Raise InputError for a pre-training that this revision can't read."""
    if (objective := config.pretrain.objective) not in ("", *OBJECTIVES.values()):
        raise InputError(
            f"{run} learnt {objective}, which later revisions don't: pre-train again "
            "(--mode=pretrain)"
        )


def with_classes(config: ConfigDict, classes: tuple[str, ...]) -> ConfigDict:
    """Return a copy that names the classes found, unless they are negative and positive."""
    named = ConfigDict(config.to_dict())
    if not named.data.labels and classes != CLASSES:
        named.data.labels = join_names(classes)
    return named


def make_tokenizer(config: ConfigDict, corpus: Corpus) -> Any:
    """Return the pretrained weights' tokenizer, or one trained on the training split."""
    model, data, texts = config.model, config.data, corpus.splits["train"].texts
    if run := pretrained_run(model.pretrained):
        return RunDirectory(run).load_tokenizer()
    if model.pretrained:
        folder, _ = hub.find_pretrained(model.pretrained, model.revision)
        return tokenization.load_pretrained_tokenizer(folder)
    if model.name != "lstm":
        return tokenization.train_wordpiece(texts, vocabulary_size=data.vocabulary_size)
    return tokenization.train_word_level(
        texts, data.vocabulary_size, data.min_frequency, data.ngrams, data.ngram_frequency
    )


def make_classifier(config: ConfigDict, tokenizer: Any) -> Classifier:
    """Build the model of a resolved config."""
    size = tokenizer.get_vocab_size()
    settings, classes = config.model.to_dict(), len(class_names(config))
    head: dict[str, Any] = {"classes": classes, "pretraining": bool(config.pretrain.objective)}
    model = classifiers.build_model(settings, vocab_size=size, **head)
    return Classifier(config, tokenizer, model, devices.data_mesh())


def choose_examples(config: ConfigDict, test: Reviews) -> tuple[str, ...]:
    """Return the texts that a config names; for data of one's own, some of the test reviews."""
    named = config.example_texts
    if named == EXAMPLE_TEXTS and config.data.source == "csv":  # they speak of films
        named = ()
    return named or stratified_sample(test, count=4, seed=config.data.split_seed).texts


def read_corpus(config: ConfigDict) -> Corpus:
    """Read a config's reviews."""
    with progress_bar(None, "reading reviews"):
        return load_corpus(DataConfig(**config.data.to_dict()))


def warn_of_known_reviews(config: ConfigDict, corpus: Corpus) -> None:
    """Warn if a run that a config learns from, or one before it, learnt from held-out reviews.

    Held-out reviews that are in the training split too are no news: the statistics count those.
    """
    held = np.concatenate([corpus.splits[name].hashes for name in ("val", "test")])
    held = np.setdiff1d(held, corpus.splits["train"].hashes)
    for run in source_runs(config, taught=True):
        try:
            learnt = _read_learnt(run, config, corpus.statistics["data_hash"])
        except InputError as error:
            terminal.warn_once(f"{run} may know reviews that are held out here: {error}")
            continue
        if known := np.isin(held, learnt).sum():
            terminal.warn_once(
                f"{run} learnt from {known:,} of the {len(held):,} reviews that are held out "
                "here: their scores mislead"
            )


def _read_learnt(run: Path, config: ConfigDict, data_hash: str) -> Shaped[np.ndarray, " texts"]:
    """Return the hashes of what a run has learnt from.

    They are read again; none are returned if the run held out the reviews of this `data_hash`.
    InputError: its data are gone or have changed.
    """
    directory = RunDirectory(run)
    source, recorded = directory.read_config(), read_json(directory.env)["data"]
    if data_hash in (recorded["data_hash"], recorded.get("labelled_hash")):
        return np.array([], "S64")
    data = DataConfig(**source.data.to_dict())
    if data.source == config.data.source == "tfds":  # the same reviews wherever they are
        data = dataclasses.replace(data, path=config.data.path)
    if data.source == "tfds" and not is_prepared(data.path):
        raise InputError("IMDB, which it learnt from, is not here to compare")
    with progress_bar(None, f"reading what {run.name} has learnt from"):
        if source.pretrain.objective:
            corpus = load_text(data, source.pretrain.text, source.pretrain.unlabeled)
        else:
            corpus = load_corpus(data)
        learnt = corpus.splits["train"].hashes
        if data.unlabeled and not source.pretrain.objective:
            more = unlabeled_reviews(data, source.pretrain.text)
            learnt = np.concatenate([learnt, more.hashes])
            if recorded.get("unlabeled_hash") not in (None, texts_hash(more)):
                raise InputError("its reviews without labels have changed since")
    if corpus.statistics["data_hash"] != recorded["data_hash"]:
        raise InputError("its own reviews have changed since")
    return learnt


def prepare_experiment(
    config: ConfigDict,
    tokenizer: Any = None,
    only: str | None = None,
    corpus: Corpus | None = None,
) -> Experiment:
    """Read and encode the reviews and build the model of a resolved config.

    The tokenizer is a run's, or None to make the config's. Where `only` one split is encoded, the
    others are read for the data hash alone; a `corpus` was read before.
    """
    if config.pretrain.objective:
        raise InputError("pretrain.objective is what --mode=pretrain sets: leave it empty")
    data = DataConfig(**config.data.to_dict())
    corpus = corpus or read_corpus(config)
    if only is None:
        warn_of_known_reviews(config, corpus)
    config = with_classes(config, corpus.splits["train"].classes)
    if tokenizer is None:
        with progress_bar(None, "making the vocabulary"):
            tokenizer = make_tokenizer(config, corpus)
    for teacher in teachers(config) if only is None else ():
        told = class_names(RunDirectory(teacher).read_config())
        if told != class_names(config):
            known = ", ".join(told), ", ".join(class_names(config))
            raise InputError(f"data.teacher={teacher} tells {known[0]}, the labels are {known[1]}")
    classifier = make_classifier(config, tokenizer)
    examples = choose_examples(config, corpus.splits["test"])
    if only is not None:
        corpus = dataclasses.replace(corpus, splits={only: corpus.splits[only]})
    elif data.unlabeled:
        unlabeled = unlabeled_reviews(data, config.pretrain.text)
        corpus = dataclasses.replace(corpus, splits={**corpus.splits, "unlabeled": unlabeled})
    total = sum(map(len, corpus.splits.values()))
    with progress_bar(total, "encoding", unit="review") as bar:
        encoded = encode_corpus(corpus, tokenizer, data, bar.update)
        check_encoded(encoded, tokenizer.get_vocab_size(), len(classifier.classes))
        words = {
            name: np.array([len(text.split()) for text in split.texts], np.int32)
            for name, split in corpus.splits.items()
        }
    truncated = {
        name: round(split.truncated / max(len(split), 1), 4) for name, split in encoded.items()
    }
    statistics = {**corpus.statistics, "truncated": truncated}
    if "unlabeled" in encoded:
        more = encoded.pop("unlabeled")
        more = dataclasses.replace(more, labels=np.full(len(more), -1, np.int32))
        encoded["train"] = concatenate(encoded["train"], more)
        statistics |= {"unlabeled": len(more), "unlabeled_hash": texts_hash(unlabeled)}
    return Experiment(
        **vars(classifier), encoded=encoded, words=words, statistics=statistics, examples=examples
    )


@functools.lru_cache(maxsize=8)
def initializer(model: nn.Module) -> Callable[[jax.Array], Any]:
    """Return the jitted function from a key to the model's fresh parameters."""

    def init(key: jax.Array) -> Any:
        ids, lengths = jnp.zeros((1, 8), jnp.int32), jnp.ones((1,), jnp.int32)
        return model.init(key, ids, lengths, deterministic=True)["params"]

    # It runs once: LLVM's -O1 gives the same bits and compiles a third faster.
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 1})


def abstract_params(model: nn.Module) -> Any:
    """Return the shapes and dtypes of a model's parameters; nothing is allocated."""
    return jax.eval_shape(initializer(model), jax.random.key(0))


def initial_params(experiment: Classifier) -> tuple[Any, Any]:
    """Return parameters from seed and pretrained weights, and the LoadReport (or None) of those.

    The CPU draws them, so that every backend starts from the same bits and none compiles an
    orthogonal matrix, which takes a GPU up to a minute.
    """
    with layers.on_cpu():
        params = initializer(experiment.model)(jax.random.key(experiment.config.seed))
    choice = experiment.config.model
    if not choice.pretrained:
        return params, None
    if run := pretrained_run(choice.pretrained):
        found = load_run(run, judges=False)
        tensors = weights.to_tensors(found.params, choice.name)
        where, files = f"model.pretrained={run}", f"{run}, step {found.step}"
        return weights.load_tensors(tensors, experiment.model.config, params, where, files)
    folder, _ = hub.find_pretrained(choice.pretrained, choice.revision)
    return weights.load_pretrained(folder, experiment.model.config, params)


def count_parameters(model: nn.Module) -> int:
    """Return the number of scalars in a model's parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model)))


def restore_model(like: Classifier, checkpoints: Checkpoints, step: int) -> TrainedModel:
    """Restore the parameters of one checkpoint, a copy on each device."""
    shapes = devices.abstract(abstract_params(like.model), like.mesh)
    params = checkpoints.restore(step, params=shapes)["params"]
    return TrainedModel(like.config, like.tokenizer, like.model, like.mesh, params, step)


def load_run(workdir: Path, *, calibrated: bool = False, judges: bool = True) -> TrainedModel:
    """Read the best checkpoint of a run directory, also beside its training.

    If `calibrated`, the temperature is the one that was fitted on validation. A pre-training, which
    judges nothing, is read only where that is not asked for.

    InputError: not a run directory, or nothing validated in it yet. RunError: damaged.
    """
    directory = RunDirectory(workdir)
    directory.check_found()
    config = directory.read_config()
    check_objective(workdir, config)
    if judges and config.pretrain.objective:
        raise InputError(
            f"{workdir} is a pre-training, which judges no review: fine-tune from it by "
            f"--config.model.pretrained={workdir}"
        )
    return _beside_training(directory, functools.partial(_load_best, calibrated=calibrated))


def _beside_training(directory: RunDirectory, read: Callable[[RunDirectory], Found]) -> Found:
    """Return what `read` finds, trying again where checkpoints were replaced meanwhile."""
    attempts = READ_ATTEMPTS
    while True:
        before = entries(directory.checkpoints)
        try:
            return read(directory)
        except Exception:  # of whatever type: the training may have moved what was read
            attempts -= 1
            if not attempts or entries(directory.checkpoints) == before:
                raise


def load_mean(workdirs: Sequence[Path], *, calibrated: bool = False) -> TrainedModel:
    """Read several runs as one model, the mean of them; InputError if their classes differ."""
    first, *others = (load_run(workdir, calibrated=calibrated) for workdir in workdirs)
    for workdir, other in zip(workdirs[1:], others, strict=True):
        if other.classes != first.classes:
            known = ", ".join(first.classes), ", ".join(other.classes)
            raise InputError(
                f"{workdirs[0]} tells {known[0]}, {workdir} tells {known[1]}: there is no mean of "
                "different classes"
            )
    return dataclasses.replace(first, others=tuple(others))


def _find_best(directory: RunDirectory) -> dict[str, Any]:
    """Return what is recorded of the best checkpoint, which is intact; no parameter is read."""
    checkpoints = Checkpoints(directory.checkpoints, read_only=True)
    if directory.result.exists():
        best = read_json(directory.result)
        best["step"] = best["best_step"]
    else:
        _check_intact(checkpoints, checkpoints.steps[-1])
        best = checkpoints.bookkeeping(checkpoints.steps[-1])["best"]
        if best is None:
            raise InputError(
                f"{directory.path} has no validated checkpoint yet (steps found: "
                f"{checkpoints.steps}); let its first epoch end"
            )
    _check_intact(checkpoints, best["step"])
    return best


def _load_best(directory: RunDirectory, calibrated: bool) -> TrainedModel:
    classifier = make_classifier(directory.read_config(), directory.load_tokenizer())
    best = _find_best(directory)
    checkpoints = Checkpoints(directory.checkpoints, read_only=True)
    trained = restore_model(classifier, checkpoints, best["step"])
    if not calibrated:
        return trained
    if "temperature" not in best:
        reason = (
            "keeps no temperature, as runs of earlier revisions: --mode=evaluate --split=val "
            f"--workdir={directory.path} fits it"
            if classifier.config.data.validation_fraction
            else "held out no reviews (data.validation_fraction=0) to fit a temperature on: leave "
            "the probabilities as they are"
        )
        raise InputError(f"{directory.path} {reason}")
    return dataclasses.replace(trained, temperature=best["temperature"])


def _check_intact(checkpoints: Checkpoints, step: int) -> None:
    if fault := checkpoints.fault(step):
        raise RunError(
            f"the checkpoint of step {step} in {checkpoints.directory} is damaged ({fault}): put "
            "its files back, or train again with --fresh"
        )
