"""Commands that publish, import and sign versions."""
