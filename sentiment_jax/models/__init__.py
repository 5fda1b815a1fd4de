"""Flax linen models: token ids and valid lengths in, a float32 logit per class out.

A new one takes a module here, a branch in `classifiers.build_model`, its settings in
`config.MODELS` and a recipe in `configs/`. For BERT alone, delete `lstm.py`, `lstm_scan.py`, that
function's other branches, and the other recipes.
"""
