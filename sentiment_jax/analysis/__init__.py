"""Finished runs read back: records, predictions, figures, pages, attributions."""
