"""The wire: generated messages, errors, limits and parameters that both ends share."""
