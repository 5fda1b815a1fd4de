"""Accuracy on data sets, of the recipes and of other libraries."""
