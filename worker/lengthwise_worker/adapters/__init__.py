"""The adapters that a worker serves: which there are, and which are in memory."""
