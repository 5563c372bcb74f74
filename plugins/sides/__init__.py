"""Small networks beside the base."""
