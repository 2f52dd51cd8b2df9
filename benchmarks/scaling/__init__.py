"""The autoscaler over a simulated release, and role flips live."""
