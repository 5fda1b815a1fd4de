"""What a sweep consists of and what it prints."""
