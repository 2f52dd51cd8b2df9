"""What a decode worker holds and computes next."""
