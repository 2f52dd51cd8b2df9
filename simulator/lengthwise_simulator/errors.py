"""What cannot be simulated."""


class SimulationError(Exception):
    """One line for the person who asked: what, got, expected, remedy."""
