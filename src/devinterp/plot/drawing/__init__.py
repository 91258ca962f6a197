"""What pictures share: facets, labels, styles, numbers."""
