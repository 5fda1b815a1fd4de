"""Text classification in plain JAX: BERT, ELECTRA and an LSTM on movie reviews."""
