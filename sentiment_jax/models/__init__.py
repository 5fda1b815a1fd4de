"""Flax linen models: token ids and valid lengths in, a float32 logit per class out.

A new architecture takes three places and a recipe: its network in a file here, its entry in
`registry.ARCHITECTURES`, its settings in `config/schema.py` (a dataclass, `MODELS` and the choices
of `model.name`), and `configs/NAME.py`. Its embedding is named `embedding` or `word_embeddings`,
which is where attributions start.

For BERT alone, delete `electra.py`, `lstm.py` and `lstm_scan.py`, their imports and entries in
`registry.py`, and the recipes `configs/electra.py` and `configs/lstm.py`. Nothing else in the
package imports these files.
"""
