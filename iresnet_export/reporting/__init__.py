"""Results as JSON and as tables."""
