"""What several test modules share: tiny models and media, servers, runs of training."""
