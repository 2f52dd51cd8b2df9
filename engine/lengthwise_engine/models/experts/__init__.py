"""The experts of a layer: MLPs of which each token takes a few (Shazeer et al. 2017,
arXiv:1701.06538), one after the other on CPUs and all in one launch on GPUs.

What a row gets is the product of its own numbers alone, added in an order of its own: the same
whatever rows are beside it, where projections keep that. A rank may have some of the experts, or a
share of each of them: either way the ranks sum what they found.
"""
