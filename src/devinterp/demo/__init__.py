"""The demonstration: real text, a trained transformer, a validated store, a circuit."""
