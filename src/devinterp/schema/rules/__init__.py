"""Rules that relate variables, attributes and groups; a schema names them, and others may register their own."""
