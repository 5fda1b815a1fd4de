"$PYTHON" benchmarks/accuracy/peers_torch.py sklearn "$FOLDER" "$WEIGHTS" "$SEED"
