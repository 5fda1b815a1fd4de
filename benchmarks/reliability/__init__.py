"""Kills, damaged files and silences; the structure of the package."""
