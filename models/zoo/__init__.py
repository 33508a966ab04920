"""The models on offer: their cards and their weights."""
