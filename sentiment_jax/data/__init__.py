"""From reviews to batches: sources, reviews, corpus (splits), encoding (token ids), batches."""
