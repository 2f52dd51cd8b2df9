"""The autoscaler in the loop: pods that take time to start, drain and change roles."""
