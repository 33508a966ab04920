"""The REST surface: rooms of routes that turn requests into orders and jobs into JSON."""
