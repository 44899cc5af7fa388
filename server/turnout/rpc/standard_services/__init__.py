"""The standard gRPC services: health, reflection and channelz."""
