"""What adapters add to projections."""
