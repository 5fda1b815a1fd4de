"""The published study's figures, and what was repeated of it."""
