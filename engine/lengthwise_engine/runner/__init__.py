"""Runners: what computes planned steps on a device."""
