"""Hugging Face folders: where they are found, and how their names map to ours."""
