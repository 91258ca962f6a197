"""Singular learning theory: estimands on stores, one per module, and the sampling that writes them."""
