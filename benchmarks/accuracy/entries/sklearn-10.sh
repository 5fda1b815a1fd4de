"$PYTHON" benchmarks/accuracy/peers_torch.py sklearn-10 "$FOLDER" "$WEIGHTS" "$SEED"
