"""What is done with records on their way."""
