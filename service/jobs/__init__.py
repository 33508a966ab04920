"""Jobs and slides as the database knows them: states, moves, and the stores that keep them."""
