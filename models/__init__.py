"""Networks that super-resolve a batch of patches: architectures, weights, inference, training, metrics."""
