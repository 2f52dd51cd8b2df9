"""Mixtures of experts: which rows go where, their products in one launch, and what comes back."""
