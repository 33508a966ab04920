"""Catalog of the available models: cards and weights."""
