"""What a study's events tell: trials, curves, counts and tables."""
