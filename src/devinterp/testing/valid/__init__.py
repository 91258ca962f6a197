"""Trees that are valid by construction: drafts, values, attributes, and the rules that they fulfil."""
