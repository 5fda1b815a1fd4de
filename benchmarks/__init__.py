"""Measurements, one command each: `python -m benchmarks.FOLDER.NAME`.

The folders are those of results/, whose pages name the commands. Beside them stand the writers of
synthetic reviews and of the page of all settings.
"""
