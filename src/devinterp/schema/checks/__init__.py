"""The validator's questions, one module each: names and types, attributes, sizes, storage, completeness, values."""
