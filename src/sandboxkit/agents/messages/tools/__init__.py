"""What the model may call: a shell and an editor in the sandbox, and functions of the caller."""
