"""`fit`, its step, and what stands around them."""
