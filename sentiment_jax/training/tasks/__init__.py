"""The tasks: classification of labeled reviews, several labels per review, pre-training."""
