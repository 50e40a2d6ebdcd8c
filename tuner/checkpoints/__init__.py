"""State of trials that train, kept so that they can go on: formats, stores, and what moves between them."""
