"""Every decision of Lengthwise, free of I/O: what runs next, where it runs, and what has to wait.

Values in, values out: time and random numbers are arguments, nothing here
logs or waits, ties break by id, and a decision carries its reason. The router, the workers and the
simulator therefore take the very same decisions, and a test can repeat any of them.
"""
