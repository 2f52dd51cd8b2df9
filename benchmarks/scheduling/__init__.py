"""Scheduling live, arm against arm, and simulated prefill disciplines."""
