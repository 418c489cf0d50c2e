"""How a solve is differentiated: the rule, and the ways to apply it."""
