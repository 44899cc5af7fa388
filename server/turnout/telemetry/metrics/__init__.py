"""What is counted, by what it is counted of."""
