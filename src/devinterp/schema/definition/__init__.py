"""What a schema is: its specs, how documents become one, and the layouts that it resolves to."""
