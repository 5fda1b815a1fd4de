"""Kills and damaged files; the structure of the package."""
