"""How a study runs: from its file to its winner."""
