"""Using a trained encoder on pictures of one's own: features, neighbours, attention."""
