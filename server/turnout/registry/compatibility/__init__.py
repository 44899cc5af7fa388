"""What one version's difference from another means for clients, and the number it calls for."""
