"""KV blocks from one worker's cache into another's, in a process that may be killed."""
