"""How good an enlarged image is."""
