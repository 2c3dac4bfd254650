"""What is shown of tasks and results: progress on a terminal, and the contact sheet."""
