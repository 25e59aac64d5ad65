"""The metadata service: what an instance can ask about itself, as Alibaba Cloud and EC2 answer it."""
