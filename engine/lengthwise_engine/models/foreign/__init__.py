"""Models that transformers builds and computes, over our cache and with our attention.

An architecture is not described here: a model without weights is run once, and its calls of the
attention are what it needs of a cache and of kernels. Imports `transformers`, an extra, only where
such a model is served.
"""
