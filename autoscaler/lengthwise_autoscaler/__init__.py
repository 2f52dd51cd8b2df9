"""Sizes the pools of workers by what Prometheus tells, with `policy/scaling.py`."""
