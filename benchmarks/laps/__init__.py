"""The sweep of prompt lengths after LAPS."""
