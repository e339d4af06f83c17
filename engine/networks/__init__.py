"""The definitions of the networks, in torch; only the torch backend and the recipes import them."""
