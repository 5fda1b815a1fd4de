"""The tasks: classification of labeled reviews, and pre-training on text."""
