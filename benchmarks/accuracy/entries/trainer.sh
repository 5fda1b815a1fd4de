"$PEERS" benchmarks/accuracy/peers_torch.py trainer "$FOLDER" "$WEIGHTS" "$SEED"
