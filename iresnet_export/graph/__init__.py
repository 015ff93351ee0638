"""Networks as graphs, whatever the format: nodes, places, precision, comparison."""
