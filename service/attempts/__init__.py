"""Attempts at jobs: what a worker does with a job that it has claimed."""
