"""What a trained network is for: export, explanations, pictures, text."""
