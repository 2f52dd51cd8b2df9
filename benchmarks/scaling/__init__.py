"""The autoscaler over a simulated plant, and role flips live."""
