"$PEERS" benchmarks/accuracy/peers_torch.py setfit "$FOLDER" "$WEIGHTS" "$SEED"
