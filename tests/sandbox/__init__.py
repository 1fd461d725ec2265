"""What `Sandbox` does beyond the conformance kit."""
