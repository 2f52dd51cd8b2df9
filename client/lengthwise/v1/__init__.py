"""The messages and stubs of the wire, for those who call it without a client."""
