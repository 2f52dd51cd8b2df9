"""What a checkpoint's files say, read once for all who need it; no weights, no torch."""
