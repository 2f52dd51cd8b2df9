"""Projections whose weights are integers with scales, stored or rounded so."""
