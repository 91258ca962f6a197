"""Criteria of information: what a run tells of free energy and generalization."""
