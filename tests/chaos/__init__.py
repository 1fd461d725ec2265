"""What must survive: killed hosts, cut connections, cancellation at any moment."""
