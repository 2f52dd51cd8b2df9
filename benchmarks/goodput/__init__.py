"""Served goodput: requests a second that meet their objectives, against vLLM and without
disaggregation."""
