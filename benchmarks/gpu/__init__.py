"""What `make gpu-check` measures on a machine with a GPU."""
