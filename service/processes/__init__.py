"""Child processes that decode slides and compute."""
