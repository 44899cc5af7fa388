"""What a server takes on: how many requests at once, and how much of requests and answers in memory."""
