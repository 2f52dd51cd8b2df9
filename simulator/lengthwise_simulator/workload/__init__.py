"""What arrives: requests with lengths and texts, of traces or drawn."""
