"""From a source of reviews to splits, token ids and batches of few shapes."""
