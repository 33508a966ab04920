"""The upscaling pipeline, shared by command line, worker and Python code; imports neither FastAPI nor SQL."""
