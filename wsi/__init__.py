"""Whole-slide images: read them, find the tissue, plan tiles, blend them, write pyramids."""
