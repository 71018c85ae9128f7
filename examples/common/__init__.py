"""What the examples share: data fetched once, checked and cached."""
