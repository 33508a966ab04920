"""Upscaling of slides by networks: the pipeline, the command line, the REST service and its worker."""
