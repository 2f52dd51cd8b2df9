"""The load of each group of pools, read from Prometheus."""
