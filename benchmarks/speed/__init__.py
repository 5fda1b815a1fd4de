"""Seconds, bytes and FLOPs, here and beside PyTorch; what an accuracy costs."""
