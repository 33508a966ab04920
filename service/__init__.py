"""What joins slides and networks: one pipeline, a command line, a REST service and its worker."""
