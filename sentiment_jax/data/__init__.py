"""From texts to batches: texts, dataset (sources, splits), encoding (token ids), batches."""
