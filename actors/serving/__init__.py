"""Serve videos live: sessions of many people on one model, block by block, and the server that streams them."""
