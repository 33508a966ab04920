"""Training: recipes, phases, checkpoints and logs."""
