"""One file an architecture; `table.py` lists them."""
