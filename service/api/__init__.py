"""The REST API: its routes, schemas and middleware."""
