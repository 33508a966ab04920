"""Super-resolution for whole-slide images."""
