"""A model made of integer arithmetic, for tests of everything around a model.

Its next token is right only if the keys and values of every layer of every block lie in the right
place and order, and a few lines of plain Python can compute it.
"""
