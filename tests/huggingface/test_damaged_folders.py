"""A folder of weights, damaged anywhere: refused in one line, or read as what it says.

`FOLDERS=500 pytest -s` tries 500 damages, a few by default. What is read may differ from the
folder before the damage only by a legal value in place of another one, in what that file decides.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import struct
import time
from pathlib import Path

import golden
import msgpack
import numpy as np
import pretrained
import pytest
import runs
from flax import serialization, traverse_util

from configs import bert
from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import ENCODERS
from sentiment_jax.data.dataset import SAMPLE
from sentiment_jax.data.tokenization import train_wordpiece
from sentiment_jax.errors import InputError
from sentiment_jax.models.registry import build_model
from sentiment_jax.modes.export import Export, export_pretrained
from sentiment_jax.training import checks, resume
from sentiment_jax.training.objectives.masked_language_modeling import MaskedLanguageModeling
from sentiment_jax.training.tasks.classification import CLASSIFICATION

COUNT = int(os.environ.get("FOLDERS", 42))
SECONDS = 60
BYTES = 2**30
KINDS = ("bert", "electra", "roberta", "distilbert", "modernbert", "flax_bert", "xlm-roberta")
TEXTS = SAMPLE.read_text(encoding="utf-8").splitlines()[:300]
SMALL = {name: value for name, value in runs.SMALL.items() if "model" not in name}
SMALL |= {"data.source": "sample", "data.length_buckets": (), "data.max_length": 16}
SMALL |= {"data.limit": 20, "data.test_limit": 10}


def write_folder(folder, kind):
    """A classifier of random weights with all the files that it needs."""
    if kind == "flax_bert":
        shutil.copytree(golden.FIXTURES / kind, folder)
        train_wordpiece(TEXTS[:1], vocabulary_size=61).save(str(folder / "tokenizer.json"))
        return folder
    own = {"local_attention": 8} if kind == "modernbert" else {}
    own = {"type_vocab_size": 1} if "roberta" in kind else own
    config = ENCODERS[kind](**{"name": kind, **pretrained.SIZES, **own})
    tokenizer = pretrained.TRAINERS[kind.replace("electra", "bert")](TEXTS)
    params = golden.random(build_model(config, vocab_size=1))
    export_pretrained(folder, Export(config, params, tokenizer))
    if kind == "modernbert":  # as transformers 5 writes it
        theta = {"full_attention": 8e4, "sliding_attention": 1e4}
        rope = {name: {"rope_type": "default", "rope_theta": t} for name, t in theta.items()}
        golden.change_config(folder, layer_types=[*theta], rope_parameters=rope)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, and what a training starts from there; not to be changed."""
    parent = tmp_path_factory.mktemp("hub")
    return {kind: write_folder(parent / kind, kind) for kind in KINDS}


def start(folder):
    """What a training starts from: its settings, tokens, parameters, and the first logits."""
    config = override(bert.get_config(), SMALL | {"model.pretrained": str(folder)})
    config = checks.resolve(config)
    checks.check_sources(config)
    experiment = CLASSIFICATION.prepare(config)
    with contextlib.suppress(InputError):  # it has no [MASK]
        MaskedLanguageModeling.of(experiment.tokenizer, 0.15)
    params, report = resume.initial_params(experiment)
    encoded = experiment.encoded["train"]
    rows = np.split(encoded.token_ids, encoded.offsets[1:-1])[:4]
    batch = {
        "token_ids": np.stack([np.pad(row, (0, 16 - len(row))) for row in rows]),
        "lengths": np.array([*map(len, rows)], np.int32),
    }
    return {
        **{f"setting {n}": v for n, v in dataclasses.asdict(experiment.model.config).items()},
        **{f"values {n}": v for n, v in traverse_util.flatten_dict(params, sep="/").items()},
        "tokens": encoded.token_ids,
        "new": report.new,
        "logits": golden.logits(experiment.model, params, batch),
    }


def differences(found, expected):
    names = {**found, **expected}
    return {n for n in names if not np.array_equal(found.get(n), expected.get(n))}


DELETE = object()
WRONG = [None, True, "x", "", [], {}, [2], {"a": 2}, "two", "9" * 5000, [[[[]]]], math.nan]
NUMBERS = [-1, -0.5, math.inf, 1e10, 10**12, 10**400, 2**31, 2**30, 0, 0.0, 1, 2, 1.5]


def places(tree, path=()):
    """The path of every value in a tree, except those of long lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list) and len(value) < 50:
            yield from places(value, (*path, key))


def replace(rng, tree, values):
    """Replace or delete one value anywhere; return its path, and the old and the new value."""
    place = rng.choice([*places(tree)])
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    old = parent[place[-1]]
    new = rng.choice(values(old))
    if new is DELETE:
        del parent[place[-1]]
    else:
        parent[place[-1]] = new
    return place, old, new


def damage_json(rng, path):
    def values(old):
        number = isinstance(old, int | float)
        others = [old + 1, old * 2, -old, old / 2, float(old), str(old), [old]] if number else []
        return [DELETE] * 6 + WRONG + NUMBERS + others

    tree = json.loads(path.read_text())
    place, old, new = replace(rng, tree, values)
    path.write_text(json.dumps(tree))
    numbers = {type(old), type(new)} <= {int, float}
    return ("deleted" if new is DELETE else "number" if numbers else "wrong"), place, new


def damage_bytes(rng, path):
    """Cut, flip, insert, drop, blank or repeat bytes, or all of them."""
    raw = path.read_bytes()
    at = rng.randrange(min(len(raw), rng.choice([100, 3000, 10**9])))
    end = at + rng.choice([1, 2, 8, 100])
    wholes = [b"", b"null", b"[]", b"{}", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"1", b"[" * 99_999]
    flipped = raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    changed = {
        "cut": raw[:at],
        "flip": flipped,
        "insert": raw[:at] + rng.randbytes(end - at) + raw[at:],
        "drop": raw[:at] + raw[end:],
        "zero": raw[:at] + bytes(end - at) + raw[end:],
        "repeat": raw[:end] + raw[at:],
        "whole": rng.choice(wholes),
    }
    kind = rng.choice([*changed, "flip"])
    path.write_bytes(changed[kind])
    return "bytes", (kind, at, end), None


def damage_vocabulary(rng, path):
    """Change the entries of a tokenizer's model, or one that stands before it."""
    tree = json.loads(path.read_text())
    model = tree["model"]
    vocabulary = model["vocab"]
    kind = rng.choice(["empty", "delete", "special", "number", "add", "merge", "model", "all"])
    keys = [*vocabulary] if isinstance(vocabulary, dict) else range(len(vocabulary))
    key = rng.choice(keys[:5] if kind == "special" else keys)
    number = rng.choice([2**31, 2**32 - 1, 2**32, 400, 10**6, -1, 0, 1.5, "3", None, [1]])
    if kind == "empty":
        vocabulary.clear()
    elif kind in ("delete", "special"):
        del vocabulary[key]
    elif kind == "number":
        vocabulary[key] = number
    elif kind == "add" and isinstance(vocabulary, dict):
        vocabulary["film"] = vocabulary["Ġfilm"] = number
    elif kind == "merge" and "merges" in model:
        model["merges"] = rng.choice([[], [["x", "yz"]], ["a b c"], model["merges"][::-1], None])
    elif kind == "model":
        names = [name for name in model if name not in ("vocab", "merges")]
        model[rng.choice(names)] = rng.choice([*WRONG, *NUMBERS, 10**6, 0.5])
    else:
        group = rng.choice(["normalizer", "pre_tokenizer", "post_processor", "truncation"])
        slow = {"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Removed"}
        slow["invert"] = False
        ids = {"type": "RobertaProcessing", "sep": ["x", number], "cls": ["y", 10**9]}
        ids |= {"trim_offsets": True, "add_prefix_space": True}
        tree[group] = rng.choice([None, slow, ids, {"type": "Lowercase"}, {"type": "Sequence"}])
    path.write_text(json.dumps(tree))
    return "vocabulary", (kind, key), None


DTYPES = ["F64", "F32", "F16", "BF16", "I32", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X", 1]


def damage_safetensors(rng, path):
    """Change an entry of the header, or a number."""
    raw = path.read_bytes()
    size = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:size])
    data = bytearray(raw[size:])
    name, other = rng.sample([name for name in header if name != "__metadata__"], 2)
    entry = header[name]
    shape = entry["shape"]
    first, last = entry["data_offsets"]
    there = header[other]["data_offsets"]
    more = ""
    kind = rng.choice(
        ["dtype", "shape", "offsets", "delete", "rename", "twice", "metadata", "length", "value"]
        + ["wide", "swap"]
    )
    if kind == "dtype":
        entry["dtype"] = rng.choice(DTYPES)
    elif kind == "shape":
        shapes = [shape[::-1], [1, *shape], [], [2**62, *shape], [-1], None, [*shape, 0], ["1"]]
        entry["shape"] = rng.choice(shapes)
    elif kind == "offsets":
        offsets = [[last, first], [first, last + 4], [first + 4, last + 4], [0, last - first]]
        offsets += [[-4, last - first - 4], [first, 2**63], [first], None, there]
        entry["data_offsets"] = rng.choice(offsets)
    elif kind == "swap":
        entry["data_offsets"], header[other]["data_offsets"] = there, [first, last]
    elif kind == "delete":
        del header[name]
    elif kind == "rename":
        new = rng.choice([other, name + "x", "", "a\nb" * 999, name.replace(".", "/")])
        header[new] = header.pop(name)
    elif kind == "twice":
        more = f', "{name}": {json.dumps(header[rng.choice([name, other])])}'
    elif kind == "metadata":
        header["__metadata__"] = rng.choice([None, [], 1, {"format": 1}, {"a": {"b": "c"}}])
    elif kind == "value":
        data[first : first + 4] = np.float32(rng.choice([np.nan, np.inf, 1e38, 0])).tobytes()
    elif kind == "wide":  # float64, which float32 may not hold
        values = np.frombuffer(data[first:last], np.float32).astype(np.float64)
        values[0] = rng.choice([values[0], 1e300])
        data[first:last] = values.tobytes()
        for tensor in header.values():
            if tensor.get("data_offsets", [0])[0] > first:
                tensor["data_offsets"] = [n + last - first for n in tensor["data_offsets"]]
        entry |= {"dtype": "F64", "data_offsets": [first, 2 * last - first]}
    text = json.dumps(header)[:-1].encode() + more.encode() + b"}"
    lengths = [0, 1, len(text) - 1, len(text) + 1, 2**32, 2**62, 2**64 - 1]
    length = rng.choice(lengths) if kind == "length" else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return "tensor", (kind, name), None


def damage_msgpack(rng, path):
    """Change a leaf or a key of the tree."""

    def values(old):
        array = old if isinstance(old, np.ndarray) else np.zeros(3, np.float32)
        types = ["float64", "int32", "complex64", "bool", "float16"]
        arrays = [*map(array.astype, types), array.T, array[None], array[:0]]
        arrays += [np.full_like(array, value, np.float64) for value in (1e300, np.nan)]
        packed = [([3], "float32"), ([2**40], "float32"), ("x", "x"), ([1], "object"), ([3], "V4")]
        inner = [msgpack.packb([shape, dtype, bytes(12)]) for shape, dtype in packed]
        kinds = [msgpack.ExtType(code, text) for text in inner for code in (1, 2, 3, 9)]
        return [DELETE, *WRONG, [[1.0], [1.0, 2.0]], *arrays, *rng.sample(kinds, 8)]

    tree = serialization.msgpack_restore(path.read_bytes())
    place, _, new = replace(rng, tree, values)
    if rng.random() < 0.2:
        tree[rng.choice([1, None, b"a", 1.5, "a/b", "", "bert/pooler"])] = np.ones(3)
    pack = serialization._msgpack_ext_pack
    path.write_bytes(msgpack.packb(tree, default=pack, strict_types=True))
    return "tensor", place, str(new)[:40]


def damage(rng, folder):
    """Damage one file; return its name and what was done."""
    weights = next(folder.glob("*.safetensors"), folder / "flax_model.msgpack").name
    own = damage_msgpack if weights == "flax_model.msgpack" else damage_safetensors
    ways = [("config.json", damage_json, 6), ("tokenizer.json", damage_json, 1)]
    ways += [("tokenizer.json", damage_vocabulary, 2), (weights, own, 4)]
    ways += [(name, damage_bytes, 1) for name in ("config.json", "tokenizer.json", weights)]
    ((name, act, _),) = rng.choices(ways, [weight for *_, weight in ways])
    return name, *act(rng, folder / name)


def outcome(name, kind, place, found, expected):
    """Which legal value differs now, or "same"; fails on what the file does not decide."""
    changed = differences(found, expected) - {"logits"}
    if not changed:
        assert np.array_equal(found["logits"], expected["logits"])
        return "same"
    if name == "tokenizer.json":
        assert changed == {"tokens"}
        return "another tokenizer"
    values = {n.removeprefix("values ") for n in changed if n.startswith("values ")}
    if "new" in changed:  # which is printed
        assert kind in ("bytes", "tensor") or place[0] in ("id2label", "num_labels")
        assert changed == {"new", *(f"values {n}" for n in values)} and values <= {*found["new"]}
        return "a fresh head"
    if name == "config.json":
        assert kind in ("number", "deleted", "bytes"), "a wrong type is read"
        assert all(n.startswith("setting ") for n in changed)
        return {"deleted": "a default", "number": "another number"}.get(kind, "another setting")
    assert len(values) == len(changed) and kind in ("bytes", "tensor")
    assert all(np.isfinite(found[n]).all() for n in changed)
    return "another finite weight"


def peak_bytes(reset=False):
    """The most memory that this process has held since it was reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (s for s in Path("/proc/self/status").read_text().split("\n") if "VmHWM" in s)
    return int(line.split()[1]) * 1024


def try_damage(seed, folder, expected):
    """What came of one damage, what it was, and its cost; fails on tracebacks, time, memory."""
    name, kind, place, new = damage(random.Random(seed), folder)
    what = f"{seed}: {folder.name} {name} {kind} {place} {str(new)[:40]}"
    before = peak_bytes(reset=True)
    began = time.monotonic()
    try:
        found = outcome(name, kind, place, start(folder), expected)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) <= 2000, what
        found = "refused"
    except BaseException as error:
        error.add_note(what)
        raise
    seconds = time.monotonic() - began
    size = peak_bytes() - before
    assert seconds < SECONDS and size < BYTES, what
    return found, what, (seconds, size)


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * COUNT)
def test_a_damaged_folder_is_refused_or_read_as_what_it_says(folders, tmp_path):
    expected = {kind: start(folder) for kind, folder in folders.items()}
    outcomes = collections.defaultdict(list)
    costs = []
    for seed, kind in zip(range(COUNT), itertools.cycle(KINDS), strict=False):
        folder = Path(shutil.copytree(folders[kind], tmp_path / kind, dirs_exist_ok=False))
        found, what, cost = try_damage(seed, folder, expected[kind])
        outcomes[found].append(what)
        costs.append(cost)
        shutil.rmtree(folder)
    for found, whats in outcomes.items():
        print(len(whats), found, *([] if found in ("refused", "same") else whats), sep="\n  ")
    seconds, size = map(max, zip(*costs, strict=True))
    print(f"at most {seconds:.1f} s and {size / 2**20:.0f} MiB more for one")
    assert len(outcomes["refused"]) > COUNT / 2
