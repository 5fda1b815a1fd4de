"""The tasks: classification of labeled texts, several labels per text, pre-training."""
