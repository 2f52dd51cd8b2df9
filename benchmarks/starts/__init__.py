"""What a start takes."""
