"""Measures of enlarged images."""
