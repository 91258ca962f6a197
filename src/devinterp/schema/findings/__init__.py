"""What a validation found: codes, findings, reports, and how they are shown."""
