"""The one place that knows slides and networks; free of FastAPI and SQL, so that every surface calls the same."""
