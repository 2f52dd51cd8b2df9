"""The messages and stubs of the wire, to call it without a client."""
