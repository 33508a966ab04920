"""Super-resolution of image patches: architectures, weights, inference, training, metrics."""
