"""One file per architecture; `table.py` lists them."""
