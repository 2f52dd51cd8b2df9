"""The worker's side of its transfer process, and the process itself."""
