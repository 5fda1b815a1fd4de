"""Fine-tune a pretrained BERT on a table of labeled texts, without the package: one file.

    python examples/minimal.py reviews.csv FOLDER

The table has the columns text and label. The folder has the weights of a BERT, such as
all-MiniLM-L6-v2: config.json, tokenizer.json and model.safetensors. The steps are those of the
recipe `encoder` (configs/encoder.py) in float32, with a row for each text. What the package adds is
not here: validation, checkpoints, packed rows, bfloat16. On 800 of TREC's questions it takes 82 s
on two cores of an Intel Xeon with AMX, the package in float32 50 s, from empty caches.
tests/test_minimal.py compares the losses of the first steps with the package's.
"""

import csv
import dataclasses
import functools
import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from safetensors.numpy import load_file
from tokenizers import Tokenizer

EPOCHS = 2
MIN_STEPS = 80  # of a hundred texts, two epochs are too few steps
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
WARMUP = 0.1  # of the steps
TEMPERATURE = 0.1  # of the contrastive loss
MAX_LENGTH = 128  # tokens of a text, with [CLS] and [SEP]
HEAD = 32  # tokens kept from the start of a longer text; the others are those of its end
LENGTHS = (32, 64, 128)  # to which batches are padded: each is compiled once
TEST_SHARE = 0.2

# The table


def read_table(path: str) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the texts, their classes as numbers, and the names of the classes."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    labels = np.array([classes.index(row["label"]) for row in rows], np.int32)
    return [row["text"] for row in rows], labels, classes


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of the weights, which neither truncates nor pads."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text between [CLS] and [SEP]; long texts lose their middle."""
    encoded = [text.ids for text in tokenizer.encode_batch(texts)]
    head = 1 + HEAD
    tail = MAX_LENGTH - head
    return [ids if len(ids) <= MAX_LENGTH else ids[:head] + ids[-tail:] for ids in encoded]


# Batches: a dict of arrays, all with BATCH_SIZE rows

Batch = dict[str, np.ndarray]


def make_batch(ids: list[list[int]], labels: np.ndarray, rows: np.ndarray) -> Batch:
    """Pad the texts of these rows with 0; where a batch has fewer texts, rows have weight 0."""
    longest = max(len(ids[row]) for row in rows)
    length = next(length for length in LENGTHS if longest <= length)
    batch = {
        "ids": np.zeros((BATCH_SIZE, length), np.int32),
        "lengths": np.ones(BATCH_SIZE, np.int32),
        "labels": np.zeros(BATCH_SIZE, np.int32),
        "weights": np.zeros(BATCH_SIZE, np.float32),
    }
    for place, row in enumerate(rows):
        batch["ids"][place, : len(ids[row])] = ids[row]
        batch["lengths"][place] = len(ids[row])
        batch["labels"][place] = labels[row]
        batch["weights"][place] = 1.0
    return batch


def split_rows(rows: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each batch, in their order."""
    return [rows[first : first + BATCH_SIZE] for first in range(0, len(rows), BATCH_SIZE)]


# BERT (Devlin et al., 2019). Modules have the names of Hugging Face's tensors.


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The fields of config.json that the network reads."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    initializer_range: float


def read_config(folder: Path) -> BertConfig:
    """Read config.json."""
    values = json.loads((folder / "config.json").read_bytes())
    if values["model_type"] != "bert":
        raise SystemExit(f"{folder}: model_type {values['model_type']} is not bert")
    names = [field.name for field in dataclasses.fields(BertConfig)]
    return BertConfig(**{name: values[name] for name in names})


class BertLayer(nn.Module):
    """Self-attention, then a feed-forward network, each added to its input and normalized."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "texts tokens hidden"],
        valid: Bool[Array, "texts tokens"],
    ) -> Float[Array, "texts tokens hidden"]:
        """Return the states above this layer; only valid tokens are attended to."""
        config = self.config
        dense = functools.partial(nn.Dense, config.hidden_size)
        norm = functools.partial(nn.LayerNorm, config.layer_norm_eps)

        def heads(name: str) -> Float[Array, "texts tokens heads size"]:
            projected = dense(name=f"attention.self.{name}")(hidden)
            return projected.reshape(*hidden.shape[:2], config.num_attention_heads, -1)

        attended = jax.nn.dot_product_attention(
            heads("query"), heads("key"), heads("value"), mask=valid[:, None, None, :]
        )
        attended = dense(name="attention.output.dense")(attended.reshape(hidden.shape))
        hidden = norm(name="attention.output.LayerNorm")(hidden + attended)
        inner = nn.Dense(config.intermediate_size, name="intermediate.dense")(hidden)
        output = dense(name="output.dense")(nn.gelu(inner, approximate=False))
        return norm(name="output.LayerNorm")(hidden + output)


class BertClassifier(nn.Module):
    """BERT, the mean of its last layer's states, and a linear layer."""

    config: BertConfig
    classes: int

    @nn.compact
    def __call__(
        self, ids: Int[Array, "texts tokens"], lengths: Int[Array, " texts"]
    ) -> tuple[Float[Array, "texts hidden"], Float[Array, "texts classes"]]:
        """Return each text's features and logits."""
        config = self.config

        def table(name: str, rows: int) -> nn.Embed:
            return nn.Embed(rows, config.hidden_size, name=f"embeddings.{name}_embeddings")

        positions = jnp.arange(ids.shape[1])
        valid = positions < lengths[:, None]
        hidden = table("word", config.vocab_size)(ids)
        hidden += table("position", config.max_position_embeddings)(positions)
        hidden += table("token_type", config.type_vocab_size)(jnp.zeros(1, jnp.int32))
        hidden = nn.LayerNorm(config.layer_norm_eps, name="embeddings.LayerNorm")(hidden)
        for number in range(config.num_hidden_layers):
            hidden = BertLayer(config, name=f"encoder.layer.{number}")(hidden, valid)
        features = jnp.sum(hidden * valid[:, :, None], axis=1) / lengths[:, None]
        init = nn.initializers.normal(config.initializer_range)
        return features, nn.Dense(self.classes, kernel_init=init, name="classifier")(features)


def load_params(folder: Path, model: BertClassifier, seed: int) -> dict:
    """Return the parameters: a random last layer; all others are the folder's."""
    ids = jnp.zeros((1, LENGTHS[0]), jnp.int32)
    fresh = jax.jit(model.init)(jax.random.key(seed), ids, jnp.ones(1, jnp.int32))["params"]
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}

    def read(path: tuple, leaf: Array) -> Array:
        *modules, kind = (part.key for part in path)
        if modules == ["classifier"]:
            return leaf
        tensor = tensors[".".join([*modules, "bias" if kind == "bias" else "weight"])]
        tensor = tensor.T if kind == "kernel" else tensor
        assert tensor.shape == leaf.shape, (path, tensor.shape, leaf.shape)
        return jnp.asarray(tensor, jnp.float32)

    return jax.tree_util.tree_map_with_path(read, fresh)


# The step


def contrastive_losses(
    features: Float[Array, "texts hidden"],
    labels: Int[Array, " texts"],
    weights: Float[Array, " texts"],
) -> Float[Array, " texts"]:
    """Return each text's supervised contrastive loss (Khosla et al., 2020).

    It is the mean negative log-probability of the batch's other texts of its class, under a softmax
    of the cosines with all other texts; 0 if its class has no other text there.
    """
    features /= jnp.sqrt(jnp.sum(features**2, axis=1, keepdims=True) + 1e-6)
    others = (weights > 0) & (weights > 0)[:, None] & ~jnp.eye(len(labels), dtype=bool)
    scores = jnp.where(others, features @ features.T / TEMPERATURE, jnp.finfo(jnp.float32).min)
    same = others & (labels == labels[:, None])
    total = jnp.sum(jnp.where(same, -jax.nn.log_softmax(scores), 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(same, axis=1), 1)


def make_optimizer(total_steps: int) -> optax.GradientTransformation:
    """Return AdamW with clipped gradients; its rate rises from 0, then falls to 0."""
    warmup_steps = round(WARMUP * total_steps)
    rise = optax.linear_schedule(0.0, LEARNING_RATE, warmup_steps)
    fall = optax.linear_schedule(LEARNING_RATE, 0.0, total_steps - warmup_steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.join_schedules([rise, fall], [warmup_steps]),
            eps=1e-6,
            weight_decay=0.01,
            mask=functools.partial(jax.tree_util.tree_map_with_path, decays),
        ),
    )


def decays(path: tuple, _: Array) -> bool:
    """Whether a parameter decays: no bias, and none of layer normalization."""
    return path[-1].key not in ("bias", "scale")


def split_params(params: dict) -> tuple[dict, dict]:
    """Return the parameters that are trained, and the embeddings, which stay as they are."""
    frozen = {name: leaves for name, leaves in params.items() if name.startswith("embeddings.")}
    return {name: leaves for name, leaves in params.items() if name not in frozen}, frozen


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 4))
def train_step(
    model: BertClassifier,
    optimizer: optax.GradientTransformation,
    trained: dict,
    frozen: dict,
    opt_state: optax.OptState,
    batch: Batch,
) -> tuple[dict, optax.OptState, Float[Array, ""]]:
    """Return the new parameters and optimizer state, and the sum of the cross-entropies before."""
    weights = batch["weights"]

    def compute(trained: dict) -> tuple[Array, Array]:
        params = {"params": {**trained, **frozen}}
        features, logits = model.apply(params, batch["ids"], batch["lengths"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        added = contrastive_losses(features, batch["labels"], weights)
        mean = jnp.sum((losses + added) * weights) / jnp.sum(weights)
        return mean, jnp.sum(losses * weights)

    (_, loss), gradients = jax.value_and_grad(compute, has_aux=True)(trained)
    updates, opt_state = optimizer.update(gradients, opt_state, trained)
    return optax.apply_updates(trained, updates), opt_state, loss


@functools.partial(jax.jit, static_argnums=0)
def predict_step(model: BertClassifier, params: dict, batch: Batch) -> Int[Array, " texts"]:
    """Return the predicted class of each text."""
    _, logits = model.apply({"params": params}, batch["ids"], batch["lengths"])
    return jnp.argmax(logits, axis=1)


# From a table to an accuracy


def main(table: str, folder: str, seed: int = 0) -> float:
    """Train on four fifths of the table's texts; return the accuracy on the others."""
    texts, labels, classes = read_table(table)
    ids = encode(read_tokenizer(Path(folder)), texts)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(texts))
    test, train = np.split(order, [round(TEST_SHARE * len(texts))])

    model = BertClassifier(read_config(Path(folder)), len(classes))
    trained, frozen = split_params(load_params(Path(folder), model, seed))
    steps_per_epoch = len(split_rows(train))
    epochs = max(EPOCHS, -(-MIN_STEPS // steps_per_epoch))
    optimizer = make_optimizer(epochs * steps_per_epoch)
    opt_state = optimizer.init(trained)
    for epoch in range(epochs):
        losses = []
        for rows in split_rows(rng.permutation(train)):
            batch = make_batch(ids, labels, rows)
            trained, opt_state, loss = train_step(
                model, optimizer, trained, frozen, opt_state, batch
            )
            losses.append(loss)
        print(f"epoch {epoch + 1}/{epochs}: loss {np.sum(losses) / len(train):.4f}", flush=True)

    correct = 0
    for rows in split_rows(test[np.argsort([len(ids[row]) for row in test])]):
        predicted = predict_step(model, {**trained, **frozen}, make_batch(ids, labels, rows))
        correct += np.sum(predicted[: len(rows)] == labels[rows])
    accuracy = float(correct / len(test))
    print(f"test: accuracy {accuracy:.4f} on {len(test)} texts")
    return accuracy


if __name__ == "__main__":
    main(*sys.argv[1:3])
