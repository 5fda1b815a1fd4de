"""One mode each, top to bottom: what --mode=NAME does."""
