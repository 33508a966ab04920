"""Slide readers, one module per decoding library; `open_slide` chooses among them."""
