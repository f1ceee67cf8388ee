"""Everything that federated and centralized training have in common; never imports Flower."""
