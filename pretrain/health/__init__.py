"""Health checks: numbers that are not finite, loss spikes, replicas that drift apart, and hangs."""
