"""Uploads: in one request, resumable (tus), as a form or fetched from an address; single files and archives."""
