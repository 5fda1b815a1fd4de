"""One config file per model; `--config=configs/FILE.py[:variant]` calls its get_config(variant)."""
