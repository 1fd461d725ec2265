"""Sessions that last."""
