"""What both sides of the wire share: the container imports this package, the standard library and obstore alone."""
