"""Files of slides and results: their paths, how they are added, and when they are deleted."""
