"""Scripts for developers: the demo and the measurements behind the tables."""
