"""The wire: generated messages, errors and limits that both of its ends share."""
