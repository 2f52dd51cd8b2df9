"""Load as from many clients, and what they saw."""
