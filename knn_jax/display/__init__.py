"""What users see: progress and errors on the terminal, and the canvas of all pictures."""
