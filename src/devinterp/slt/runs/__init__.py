"""What every analysis reads from a run: its kind, chains, losses, settings, and whether runs may be combined."""
