"""What can go wrong with processes on this machine. Not part of the request errors: no status maps
to it."""


class LocalClusterError(Exception):
    """A local cluster cannot start, or one of its processes is not in the state asked for. The
    message is one line for a person, followed by the last lines of a log where there is one."""
