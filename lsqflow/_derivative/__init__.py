"""How a solve is differentiated."""
