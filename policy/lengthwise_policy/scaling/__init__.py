"""How many workers each pool has, and which roles they serve."""
