"""Proof on the wire: real servers, real clients, one application between them."""
