"""From bytes to messages: bounds checked before protobuf parses, and requests that need no parsing."""
