"""What the program does around the layers: refusals, the way to servers, its record."""
