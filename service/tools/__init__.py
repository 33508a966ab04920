"""Developer scripts: the demo, and measurements for cards and documentation."""
