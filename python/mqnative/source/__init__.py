"""Getting a reference model, and knowing it again."""
