"""What `adaptvis train` is made of."""
