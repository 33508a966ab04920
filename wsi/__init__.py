"""Whole-slide images: readers, tissue detection, tile plans, blending, pyramids and writers."""
