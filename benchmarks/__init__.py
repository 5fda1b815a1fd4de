"""Measurements, one command each: `python -m benchmarks.SHELF.NAME`, its page results/SHELF/NAME.

The shelves are accuracy, speed, reliability and study. Beside them stand the writers of synthetic
reviews and of the page of all settings.
"""
