"""What is missing or damaged in a store, and how it is made whole without losing what can be read."""
