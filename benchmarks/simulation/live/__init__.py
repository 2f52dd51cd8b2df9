"""Predictions beside what workers on this machine measure."""
