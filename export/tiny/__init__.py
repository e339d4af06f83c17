"""The recipe of the embedded bundle `tiny`, from the training data to the packed bundle."""
