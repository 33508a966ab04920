"""Files of slides and results: where they lie, how they arrive, when they go."""
