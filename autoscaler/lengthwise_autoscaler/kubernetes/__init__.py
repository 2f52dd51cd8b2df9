"""The Kubernetes side: what is there, what is done to it, and which autoscaler may do it."""
