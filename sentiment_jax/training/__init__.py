"""The step, the loop and what stands around them."""
