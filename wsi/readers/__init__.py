"""One file a decoding library; `open_slide.py` holds the one table of them."""
