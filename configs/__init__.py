"""One recipe per model; `--config=configs/FILE.py[:variant]` calls its get_config(variant).

Defaults, allowed values and meanings are in `sentiment_jax/config/schema.py`.
"""
