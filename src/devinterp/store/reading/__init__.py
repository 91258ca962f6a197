"""Opening stores lazily, and what can be said of a path without opening it."""
