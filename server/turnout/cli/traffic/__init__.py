"""Commands that split and mirror traffic."""
