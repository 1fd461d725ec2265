"""The backends, what a backend must supply, and how one is found."""
