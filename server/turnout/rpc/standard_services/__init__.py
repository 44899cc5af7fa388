"""gRPC's own services: health, reflection, channelz."""
