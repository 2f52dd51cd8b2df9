"""What clients connect to, one package per transport; each an adapter of `serving.service`."""
