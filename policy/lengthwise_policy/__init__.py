"""Every decision of Lengthwise, free of I/O: what runs next, where it runs, and who has to wait.

The rule of the package: values in, values out. Time and random numbers are arguments, nothing here
logs or waits, ties break by id, and a decision carries its reason. The router, the workers and the
simulator therefore take the very same decisions, and a test can repeat any of them.
"""
