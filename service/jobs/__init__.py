"""Jobs and slides: their records, states and transitions, and the stores that keep them in a database."""
