"""What is shown of results: the contact sheet."""
