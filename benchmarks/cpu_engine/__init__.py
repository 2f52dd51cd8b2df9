"""Steps of our engine on CPUs beside those of vLLM's."""
