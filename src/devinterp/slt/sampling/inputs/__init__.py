"""What a call is given, made into what the engine takes: rows, batches, observables, masks, identity."""
