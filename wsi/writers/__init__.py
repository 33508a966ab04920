"""Encoded tiles -> files that QuPath opens; `table.py` lists the formats."""
