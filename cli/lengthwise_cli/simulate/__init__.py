"""Commands that measure a deployment without one: in virtual time."""
