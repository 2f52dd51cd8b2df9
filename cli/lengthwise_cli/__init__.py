"""The command line `lengthwise`."""
