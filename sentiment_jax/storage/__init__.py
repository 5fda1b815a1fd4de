"""Everything on disk: names of files, checksums, locks, checkpoints."""
