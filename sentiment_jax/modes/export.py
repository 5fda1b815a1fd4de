"""`--mode=export`: a run as a Hugging Face folder that PyTorch's models open, or as ONNX files."""

import dataclasses
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file

from sentiment_jax.analysis.html import render
from sentiment_jax.config.schema import CLASSES, ENCODERS, EncoderConfig, ModelConfig
from sentiment_jax.data.encoding import encode, head_size
from sentiment_jax.data.ngrams import known_ngrams
from sentiment_jax.data.texts import Texts, list_classes
from sentiment_jax.data.tokenization import find_special, framing
from sentiment_jax.data.unlabeled import KINDS
from sentiment_jax.errors import InputError, describe_shortage
from sentiment_jax.huggingface.names import NAMES, TRANSFORMERS, config_fields
from sentiment_jax.huggingface.weights import to_tensors
from sentiment_jax.models.onnx_graph import make_graph
from sentiment_jax.models.registry import ARCHITECTURES
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory, check_place, source_run
from sentiment_jax.storage.selection import Ranking
from sentiment_jax.training.trained_model import TrainedModel, calibrate, load_run


@dataclasses.dataclass(frozen=True)
class Export:
    """What an exported folder holds."""

    config: Any  # an EncoderConfig; of ONNX files, any ModelConfig
    params: Mapping[str, Any]
    tokenizer: tokenizers.Tokenizer
    objective: str = ""  # of a pre-training
    classes: Sequence[str] = CLASSES
    card: str = ""  # README.md, if any
    problem_type: str | None = None

    @property
    def pools(self) -> bool:
        """Whether the last layer reads pooled states, as no classifier of transformers does."""
        return _pools(self.config, self.objective)

    @property
    def averaged(self) -> int:
        """Of how many layers the mean is pooled."""
        return min(self.config.pooled_layers, self.config.num_hidden_layers)


def _pools(model: ModelConfig, objective: str) -> bool:
    """Return whether a classifier reads pooled states."""
    return isinstance(model, EncoderConfig) and model.pooling != "head" and not objective


def export_workdir(workdir: Path, folder: Path, form: str = "transformers") -> None:
    """Write the model of a run directory as a folder of this form; print how to open it."""
    run = load_run(workdir, classifies=form == "onnx")
    print(f"wrote {folder}: open it with {FORMATS[form](run, workdir, folder)}")


def export_run(run: TrainedModel, workdir: Path, folder: Path) -> str:
    """Write a run's model as a Hugging Face folder; return what opens it.

    InputError: the architecture has no such form.
    """
    name = run.config.model.name
    objective = run.config.pretrain.objective
    if name not in ENCODERS:
        known = " and ".join(ENCODERS)
        raise InputError(f"{workdir} holds a run of {name}: only {known} have a Hugging Face form")
    card = model_card(workdir)
    model = Export(
        run.model.config,
        run.params,
        run.tokenizer,
        objective,
        run.classes,
        card,
        run.kind.problem_type,
    )
    if name == "modernbert" and model.pools and model.averaged > 1:
        reason = "no other program normalizes a mean of ModernBERT's layers"
        raise InputError(f"{workdir}: {reason}: train with --config.model.pooled_layers=1")
    export_pretrained(folder, model)
    if model.pools:
        return "sentence-transformers' SentenceTransformer, which encodes a text to its logits"
    return f"transformers' AutoModel{TRANSFORMERS[objective]}"


def export_onnx(run: TrainedModel, workdir: Path, folder: Path) -> str:
    """Write a run's classifier as ONNX files in the layout of transformers.js; say what opens it.

    onnx/model.onnx is in float32, onnx/model_quantized.onnx in int8: its products and embeddings,
    with a scale for each output. What a service needs beside them is in config.json.

    InputError: no tokenizer yields what the model reads; onnx or onnxruntime is not installed.
    """
    config = run.config
    network = ARCHITECTURES[config.model.name].graph
    if run.counts_ngrams or known_ngrams(run.tokenizer)[1]:
        reason = "it reads n-grams, which are found in the text and not by its tokenizer"
        raise InputError(f"{workdir} holds a run of {config.model.name}: {reason}")
    if network is None:
        raise InputError(f"models/registry.py has no ONNX graph of {config.model.name}")
    try:
        import onnx  # late: only this export needs them
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise InputError(
            f"--format=onnx needs {error.name}: pip install onnx onnxruntime"
        ) from None
    graph = make_graph(network, run.model.config, run.params, len(run.classes))
    temperature = RunDirectory(workdir).outcome()[1].get("temperature", 1.0)
    settings = onnx_settings(calibrate(run, temperature))
    card = model_card(workdir, form="onnx")

    def write(partial: Path) -> None:
        (partial / "onnx").mkdir(parents=True)
        whole = partial / "onnx" / "model.onnx"
        quantized = partial / "onnx" / "model_quantized.onnx"
        onnx.save(graph, whole)
        quantize_dynamic(
            whole,
            quantized,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        _write_json(partial / "config.json", settings)
        _export_tokenizer(partial, config.data.max_length, run.tokenizer)
        (partial / "README.md").write_text(card, encoding="utf-8")

    _write_new(folder, write)
    return "onnxruntime, transformers.js, or examples/serve.py"


def onnx_settings(run: TrainedModel) -> dict[str, Any]:
    """Return a calibrated model's config.json beside its ONNX files.

    "sentiment_jax" has what Hugging Face has no name for. Of a longer text, the first and last
    tokens that `keep` counts are read; of an empty one, the tokens of `empty`.
    """
    config = run.config
    room = config.data.max_length - sum(map(len, framing(run.tokenizer)))
    last = room - head_size(room, config.data.truncation) + len(framing(run.tokenizer)[1])
    blank = encode(run.tokenizer, Texts.from_texts([""]), config.data.max_length, "head")
    ours = {
        "temperature": run.temperature,
        "thresholds": run.thresholds,
        "keep": [config.data.max_length - last, last],
        "empty": blank.tokens.tolist(),
    }
    model = Export(run.model.config, {}, run.tokenizer, classes=run.classes)
    model = dataclasses.replace(model, problem_type=run.kind.problem_type)
    return {**_settings(model), "sentiment_jax": ours}


def _settings(model: Export) -> dict[str, Any]:
    """Return config.json: sizes, and what a classifier's outputs are."""
    names = NAMES[model.config.name]
    fields = config_fields(model.config.name)
    architecture = names.classes or model.config.name.title()
    settings: dict[str, Any] = {
        "architectures": [architecture + TRANSFORMERS[model.objective]],
        "pad_token_id": find_special(model.tokenizer, "pad") or 0,
        **{theirs: getattr(model.config, ours) for ours, theirs in fields.items()},
        **names.supported,
        "torch_dtype": "float32",
    }
    if not model.objective:
        settings["id2label"] = {str(i): name for i, name in enumerate(model.classes)}
        settings["problem_type"] = model.problem_type
        settings["label2id"] = {name: i for i, name in enumerate(model.classes)}
    return {name: value for name, value in settings.items() if value is not None}


FORMATS = {"transformers": export_run, "onnx": export_onnx}


def export_pretrained(folder: Path, model: Export) -> None:
    """Write model.safetensors, config.json, tokenizer files and the card.

    A last layer that reads pooled states is written to 2_Dense/, for sentence-transformers, and a
    pre-trained ELECTRA's generator to generator/. `load_pretrained` reads it back bit for bit.
    """
    _write_new(folder, lambda partial: _write_model(partial, model))


def _write_new(folder: Path, write: Callable[[Path], None]) -> None:
    """Have a folder written: it appears complete or not at all.

    A folder that holds anything is refused: weights in it could be taken for ours.
    """
    check_place(folder)
    folder = folder.resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and is no empty folder: choose another one")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            partial = Path(temporary) / folder.name
            write(partial)
            partial.rename(folder)
    except OSError as error:
        if describe_shortage(error):
            raise
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error


def _write_model(folder: Path, model: Export) -> None:
    """Write all files of a model, and of its generator, to a new folder."""
    folder.mkdir()
    config = model.config
    params = model.params
    architecture = ARCHITECTURES[config.name]
    if architecture.extract_generator and "generator" in params:
        smaller, own = architecture.extract_generator(config, params)
        generator = Export(smaller, own, model.tokenizer, "masked_language_modeling")
        _write_model(folder / "generator", generator)
        params = {name: leaf for name, leaf in params.items() if name != "generator"}
    known = _settings(model)
    if model.pools:
        known["architectures"] = [f"{NAMES[config.name].classes}Model"]
        known |= {"output_hidden_states": True} if model.averaged > 1 else {}
    tensors = to_tensors(params, config.name)
    if model.pools:
        layer = {f"linear.{name}": tensors.pop(f"classifier.{name}") for name in ("weight", "bias")}
        _write_pooling(folder, model, layer)
    _write_part(folder, known, tensors)
    max_length = config.max_position_embeddings - config.first_position
    _export_tokenizer(folder, max_length, model.tokenizer)
    if model.card:
        (folder / "README.md").write_text(model.card, encoding="utf-8")


def _write_part(folder: Path, settings: Any, tensors: dict[str, np.ndarray]) -> None:
    """Write the settings of a model, or of a part of it, and the tensors if there are any."""
    folder.mkdir(exist_ok=True)
    _write_json(folder / "config.json", settings)
    if tensors:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        # safetensors makes a file for the user alone; this one has the mode of the others
        shutil.copymode(folder / "config.json", folder / "model.safetensors")


def _write_pooling(folder: Path, model: Export, layer: dict[str, np.ndarray]) -> None:
    """Write what sentence-transformers reads beside an encoder: the pooling and the last layer."""
    config = model.config
    parts = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    if model.averaged > 1:
        parts = {"": "Transformer", "0_Layers": "WeightedLayerPooling", **parts}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts.items())
    ]
    _write_json(folder / "modules.json", modules)
    size = {"word_embedding_dimension": config.hidden_size}
    if model.averaged > 1:
        layers = {"num_hidden_layers": config.num_hidden_layers}
        layers |= {"layer_start": config.num_hidden_layers + 1 - model.averaged}
        weights = {"layer_weights": np.ones(model.averaged, np.float32)}
        _write_part(folder / "0_Layers", size | layers, weights)
    pooling = {"pooling_mode_cls_token": config.pooling == "first"}
    pooling |= {"pooling_mode_mean_tokens": config.pooling == "mean"}
    _write_part(folder / "1_Pooling", size | pooling, {})
    outputs, inputs = layer["linear.weight"].shape
    dense = {"in_features": inputs, "out_features": outputs, "bias": True}
    dense |= {"activation_function": "torch.nn.modules.linear.Identity"}
    _write_part(folder / "2_Dense", dense, layer)


def model_card(workdir: Path, form: str = "transformers") -> str:
    """Return the model card of an exported run: data, scores, command, how to open it."""
    directory = RunDirectory(workdir)
    config = directory.read_config()
    env = read_json(directory.env)
    objective = config.pretrain.objective
    classes = KINDS if objective else config.classes
    origin = config.model.pretrained
    while run := source_run(origin):  # the license is that of the first pretrained weights
        origin = RunDirectory(run).read_config().model.pretrained
    return render(
        "model_card.md.j2",
        name=workdir.resolve().name,
        form=form,
        objective=objective,
        pools=_pools(config.model, objective),
        classes=classes,
        listed=list_classes(classes),
        model=config.model,
        origin=origin,
        data=config.data,
        statistics=env["data"],
        result=directory.outcome()[1],
        last=Ranking.of(config).last,
        command=env["command"],
    )


def _export_tokenizer(folder: Path, max_length: int, tokenizer: tokenizers.Tokenizer) -> None:
    """Write a tokenizer that adds [CLS] and [SEP] and neither pads nor truncates unasked."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {name: find_special(tokenizer, name) for name in ("pad", "unk", "mask")}
    ids |= dict(zip(("cls", "sep"), itertools.chain(*framing(tokenizer)), strict=False))
    settings = {
        # takes tokenizer.json as it is; BertTokenizer would build a lower-casing one of its own
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        **{f"{n}_token": tokenizer.id_to_token(i) for n, i in ids.items() if i is not None},
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, settings: Any) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
