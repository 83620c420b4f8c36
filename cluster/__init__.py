"""The only folder that imports ray: who runs where, and what flows between them."""
