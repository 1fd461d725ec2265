"""The way to the model: the credential is added on the host, and every request is metered."""
