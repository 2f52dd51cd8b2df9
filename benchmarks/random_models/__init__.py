"""Models with random weights in the shapes of real ones, and engines that compute them."""
