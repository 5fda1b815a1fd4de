"""Flax linen models: token ids and valid lengths in, a float32 logit per class out."""
