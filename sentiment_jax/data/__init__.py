"""From reviews to batches: reviews, corpus (sources, splits), encoding (token ids), batches."""
