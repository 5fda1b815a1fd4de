"""Flax linen models: token ids and valid lengths in, two float32 logits per review out."""
