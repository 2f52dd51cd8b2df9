"""Published results beside those of the simulator."""
