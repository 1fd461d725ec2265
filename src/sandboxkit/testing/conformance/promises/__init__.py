"""The promises, by subject."""
