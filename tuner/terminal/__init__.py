"""What a person sees in a terminal while a study runs, and tables."""
