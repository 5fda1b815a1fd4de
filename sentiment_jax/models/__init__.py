"""Flax linen models: token ids and valid lengths in, a float32 logit per class out.

docs/adding_a_model.md adds an architecture. For BERT alone, delete `electra.py`, `lstm.py` and
`lstm_scan.py`, their entries in `registry.py`, and what else that page lists.
"""
