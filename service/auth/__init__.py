"""Access tokens and browser sessions."""
