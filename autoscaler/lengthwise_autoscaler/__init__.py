"""Sizes the pools of workers by metrics from Prometheus, with `policy/scaling`."""
