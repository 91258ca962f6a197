"""Putting the demo's results before people: tables, figures, one page."""
