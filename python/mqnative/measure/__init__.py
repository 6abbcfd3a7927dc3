"""Texts in, numbers with intervals out: imatrix, perplexity, KL divergence."""
